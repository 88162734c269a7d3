"""cloudmanager attach"""

import sys
import threading
from pathlib import Path

import typer

from cloudmanager.cli.client import output
from cloudmanager.cli.client.output import format_bytes, print_message
from cloudmanager.cli.client.waiting import exported
from cloudmanager.client import ExportedDisk, access_methods
from cloudmanager.client.access_methods import AccessMethod, MountedDisk, Part
from cloudmanager.client.model import Access

_COLUMNS = ("part", "content", "size", "label", "")


def attach(disk: str, directory: Path | None, *, part: str | None, method: str | None, as_json: bool) -> None:
    """Until Ctrl-C or SIGTERM; or until the export is lost, which is an error."""
    if directory is not None and not directory.is_dir():  # before the disk is attached, which can take minutes
        raise typer.BadParameter(f"{directory} is not a directory, so nothing can be mounted there.")
    ending = threading.Event()
    with exported(disk, Access.READ_ONLY, on_lost=lambda _lost: ending.set()) as ready:
        with ready.mount(directory, part=part, method=AccessMethod(method) if method else None) as mounted:
            try:
                if as_json:
                    output.print_json(_answer(ready, mounted))
                else:
                    _print_layout(mounted)
                ending.wait()
            except KeyboardInterrupt:  # what was asked for
                print_message("Releasing the disk.")


def _answer(ready: ExportedDisk, mounted: MountedDisk) -> dict[str, object]:
    return {
        "path": str(mounted.path),
        "part": mounted.part,
        "parts": mounted.layout.parts,
        "method": mounted.method,
        "export": ready.id,
    }


def _print_layout(mounted: MountedDisk) -> None:
    output.print_table(_COLUMNS, (_row(part, mounted) for part in mounted.layout.parts), "")
    print(f"\nRead-only at {mounted.path}, without replaying any journal. Ctrl-C releases the disk.", flush=True)


def _row(part: Part, mounted: MountedDisk) -> tuple[str, ...]:
    content = part.content.type if part.content else "-"
    label = (part.content.label if part.content else "") or part.label
    return part.name, content, format_bytes(part.size_bytes), label, "mounted" * (part == mounted.part)


def cleanup(*, as_json: bool) -> int:
    """Returns how much could not be undone."""
    outcomes = access_methods.cleanup()
    failed = [outcome for outcome in outcomes if not outcome.is_undone]
    if as_json:
        output.print_items({"what": each.what, "undone": each.is_undone, "error": each.error} for each in outcomes)
        return len(failed)
    for outcome in outcomes:
        if outcome.is_undone:
            print(f"undone: {outcome.what}")
        else:
            print(f"cloudmanager: {outcome.what}: {outcome.error}", file=sys.stderr)
    if not outcomes:
        print("There is nothing to undo.")
    return len(failed)
