"""cloudmanager plugins"""

import dataclasses
import json
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cloudmanager.cli import configuration

if TYPE_CHECKING:
    from cloudmanager.core.plugins import Plugins
    from cloudmanager.core.settings import Settings


@dataclasses.dataclass(frozen=True)
class Row:
    """A plugin as it is shown."""

    name: str
    distribution: str
    version: str
    provider_types: tuple[str, ...]
    hooks: tuple[str, ...]
    """That it answers itself."""
    wraps: tuple[str, ...]
    """The hooks of other plugins that it runs around."""


def run(settings: "Settings", as_json: bool) -> None:
    plugins = configuration.load_plugins(settings)
    rows = _rows(plugins)
    providers = {provider.name: provider.type for provider in plugins}
    if as_json:
        print(json.dumps({"plugins": list(map(dataclasses.asdict, rows)), "providers": providers}, indent=2))
    else:
        _show(rows, providers)


def _rows(plugins: "Plugins") -> list[Row]:
    from cloudmanager.core.hookspecs import ProviderSpec, hook_names

    of_providers = frozenset(hook_names(ProviderSpec))
    return [
        Row(
            name=plugin.name,
            distribution=plugin.distribution,
            version=plugin.version,
            provider_types=plugin.provider_types,
            hooks=tuple(hook for hook in plugin.hooks if hook not in of_providers),
            wraps=tuple(hook for hook in plugin.hooks if hook in of_providers),
        )
        for plugin in plugins.loaded
    ]


def _show(rows: list[Row], providers: dict[str, str]) -> None:
    console = Console(highlight=False)
    table = _table("plugin", "from", "provider types", "hooks", "wraps")
    for row in rows:
        _add(
            table,
            row.name,
            f"{row.distribution} {row.version}",
            *(", ".join(names) or "-" for names in (row.provider_types, row.hooks, row.wraps)),
        )
    console.print(table)
    console.print()
    if not providers:
        console.print("No provider is configured.")
        return
    table = _table("provider", "type")
    for item in providers.items():
        _add(table, *item)
    console.print(table)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _add(table: Table, *cells: str) -> None:
    table.add_row(*map(Text, cells))
