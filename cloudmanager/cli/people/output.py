"""Tables for people, JSON for scripts. Colours and movement on a terminal only, as rich sees to it."""

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cloudmanager.cli.people.duration import words
from cloudmanager.client.model import Export, ExportState

_STYLES = {
    ExportState.READY: "green",
    ExportState.FAILED: "red",
    ExportState.CLOSING: "yellow",
    ExportState.CLOSED: "dim",
}


def print_json(value: Any) -> None:
    """A dataclass of the client, or what holds some."""
    print(json.dumps(value, default=_plain, indent=2), flush=True)


def print_items(items: Iterable[Any]) -> None:
    """A list in the form of the API's."""
    print_json({"items": list(items)})


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str | Text]], nothing: str) -> None:
    """`nothing` is said on standard error when there is no row."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0)  # what a person copies, in one piece
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    if not table.row_count:
        print(nothing, file=sys.stderr)
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 10_000  # a line for each row, for grep
    console.print(table)


def state_of(export: Export) -> Text:
    """With the error that it has, or is being tried again after."""
    text = Text(export.state, style=_STYLES.get(export.state, ""))
    return text.append(f": {export.error.title}") if export.error else text


def time_left(export: Export) -> str:
    if not export.state.is_live:
        return "-"
    return words((export.expires_at - datetime.now(UTC)).total_seconds())
