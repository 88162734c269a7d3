"""cloudmanager disks"""

from collections.abc import Iterable, Mapping

import typer

from cloudmanager.cli.client import output, waiting
from cloudmanager.cli.client.output import format_bytes
from cloudmanager.cli.client.service import service
from cloudmanager.client.model import Disk

_COLUMNS = ("disk", "size", "format", "location", "access", "attached", "used by")


def disks(text: str, *, provider: str, labels: list[str], location: str, limit: int, as_json: bool) -> None:
    with service() as manager:
        found = manager.disks(text, provider=provider, labels=_parsed(labels), location=location)
        with waiting.status_line("looking for disks"):
            found = output.at_most(limit, output.begun(found))
        if as_json:
            output.print_items(found)
        else:
            output.print_table(_COLUMNS, map(_row, found), "No disk was found.")


def _row(disk: Disk) -> Iterable[str]:
    access = ", ".join(disk.access) or "none"
    used_by = ", ".join([*disk.held_by, *(f"{holder} (export)" for holder in disk.exported_to)]) or "-"
    size, attached = format_bytes(disk.size_bytes), disk.attached or "-"
    return disk.id, size, disk.format, disk.location or "-", access, attached, used_by


def _parsed(labels: list[str]) -> Mapping[str, str]:
    pairs = [label.partition("=") for label in labels]
    if wrong := [key for key, equals, _ in pairs if not (key and equals)]:
        raise typer.BadParameter(f"{wrong[0]!r} is no label: write --label key=value.")
    return {key: value for key, _, value in pairs}
