"""cloudmanager doctor"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cloudmanager.cli import configuration
from cloudmanager.cli.exits import Exit
from cloudmanager.cli.extras import extra
from cloudmanager.cli.findings import report
from cloudmanager.core.errors import SetupError

if TYPE_CHECKING:
    from cloudmanager.core.model import Finding


def run(config: Path | None, as_json: bool) -> Exit:
    """Runs every check and prints each finding at once. PROBLEM if one of them is a problem."""
    with extra("server"):
        import cloudmanager.core.doctor  # noqa: F401 - says at once that the server part is missing
    return report(_examine(config), as_json=as_json)


def _examine(config: Path | None) -> "Iterator[Finding]":
    """Checks the configuration first. An invalid one is a finding, and the defaults are checked instead."""
    from cloudmanager.core.doctor import examine
    from cloudmanager.core.model import Finding, Severity
    from cloudmanager.core.settings import Settings

    settings = Settings.model_construct()
    try:
        path = configuration.find(config)
        settings = configuration.load(path)
        plugins = configuration.load_plugins(settings)
    except SetupError as error:
        yield Finding("configuration", Severity.PROBLEM, error.detail, "`cloudmanager config check` tries it again.")
        yield from examine(settings, ())
    else:
        yield Finding("configuration", Severity.OK, str(path) if path else "no file: the defaults")
        yield from examine(settings, plugins)
