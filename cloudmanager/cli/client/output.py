"""Tables for people, JSON for scripts. Colours and movement on a terminal only, as rich sees to it."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from cloudmanager.cli.streams import printable
from cloudmanager.client.model import Export, ExportState

if TYPE_CHECKING:
    from rich.text import Text

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> int:
    """`90`, `90s`, `30m`, `2h`, `1d`."""
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text.strip())
    if match is None or not int(match[1]):
        raise typer.BadParameter(f"{text!r} is no duration: write 90s, 30m, 2h or 1d.")
    return int(match[1]) * _UNITS[match[2]]


def format_duration(left: float) -> str:
    """The two largest units: `2 h 5 min`."""
    minutes, rest = divmod(max(0, round(left)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [
        f"{number} {unit}" for number, unit in ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")) if number
    ]
    return " ".join(parts[:2]) or "0 s"


Item = TypeVar("Item")

_WRAPPED_ROWS = 200
_BATCH_ROWS = 500
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


def at_most(limit: int, items: Iterator[Item]) -> Iterator[Item]:
    """Pages behind the last one that is shown are not asked for. 0: no limit."""
    return islice(items, limit) if limit else items


def begun(items: Iterator[Item]) -> Iterator[Item]:
    """Fetches the first item now, so that errors are raised here; the rest comes page by page."""
    return chain(list(islice(items, 1)), items)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def print_table(columns: Sequence[str], rows: Iterable[Iterable[str | Text]], nothing: str) -> None:
    """Prints `nothing` on standard error when there is no row."""
    rows = iter(rows)
    first = [tuple(row) for row in islice(rows, _WRAPPED_ROWS + 1)]
    if not first:
        print(nothing, file=sys.stderr)
    elif sys.stdout.isatty() and len(first) <= _WRAPPED_ROWS:
        _print_wrapped(columns, first)
    else:
        _print_lines(columns, chain(first, map(tuple, rows)))


def _print_wrapped(columns: Iterable[str], rows: Iterable[Iterable[str | Text]]) -> None:
    """Wraps each column to its part of the terminal, which takes a while for each row."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0)  # what a person copies, in one piece
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    Console(highlight=False).print(table)


def _print_lines(columns: Sequence[str], rows: Iterable[tuple[str | Text, ...]]) -> None:
    """A line for each row, for grep. Those of a page are written before the next one is asked for."""
    widths = list(map(len, columns))
    for number, batch in enumerate(_batches(rows)):
        cells = [tuple(printable(str(cell)) for cell in row) for row in batch]
        widths = [max(width, *map(len, column)) for width, column in zip(widths, zip(*cells, strict=True), strict=True)]
        head = [tuple(columns)] if number == 0 else []
        lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (*head, *cells)
        )
        print("\n".join(lines), flush=True)


def _batches(rows: Iterable[tuple[str | Text, ...]]) -> Iterator[list[tuple[str | Text, ...]]]:
    rows = iter(rows)
    while batch := list(islice(rows, _BATCH_ROWS)):
        yield batch


def state_of(export: Export) -> Text:
    """With the error that it has, or is being tried again after."""
    from rich.text import Text  # not for a command that prints none

    text = Text(export.state, style=_STYLES.get(export.state, ""))
    return text.append(f": {export.error.title}") if export.error else text


def time_left(export: Export) -> str:
    if not export.state.is_live:
        return "-"
    return format_duration((export.expires_at - datetime.now(UTC)).total_seconds())


def format_bytes(size: int | None) -> str:
    if size is None:
        return "-"
    number, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while number >= 1024 and len(units) > 1:
        number /= 1024
        units.pop(0)
    return f"{number:.0f} {units[0]}" if number >= 100 or number == int(number) else f"{number:.1f} {units[0]}"


def print_message(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def is_watched() -> bool:
    """Whether a terminal is there to show movement on: rich, which does that, takes a while to be imported."""
    return sys.stderr.isatty()
