"""Waits for a disk, and shows it on a terminal."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Unpack

from cloudmanager.cli.client.claim_file import kept_key
from cloudmanager.cli.client.output import is_watched
from cloudmanager.cli.client.service import lasting_service, named
from cloudmanager.client import ExportedDisk, ExportOptions
from cloudmanager.client.model import Access, Export

_AT_A_SHELL: ExportOptions = {"release_on_sigterm": True, "look_seconds": 2}

logging.getLogger("cloudmanager.client").addHandler(logging.NullHandler())  # the command reports a loss as an error


@contextmanager
def status_line(what: str) -> Iterator[Callable[[str], None]]:
    """Shows a spinner on a terminal while the block runs. The yielded function replaces its text."""
    if not is_watched():
        yield lambda _words: None
        return
    from rich.console import Console

    with Console(stderr=True, highlight=False).status(what) as status:
        yield status.update


@contextmanager
def export_status(disk: str) -> Iterator[Callable[[Export], None]]:
    """Shows the export's state during the wait. The yielded function takes the export."""
    with status_line(f"asking for {disk}") as say:

        def show(export: Export) -> None:
            why = f" (tried again: {export.error.detail})" if export.error else ""
            say(f"{disk} is {export.state}{why}")

        yield show


@contextmanager
def exported(
    disk: str, access: Access, *, goes_on: bool = False, **options: Unpack[ExportOptions]
) -> Iterator[ExportedDisk]:
    """The disk, ready, for as long as the block lasts; Ctrl-C and SIGTERM give it back.

    With `goes_on` the export of such a command that was killed is taken over.
    """
    holder = named(options.get("holder"))
    with ExitStack() as stack:
        with export_status(disk) as show:
            manager = lasting_service()
            wanted: ExportOptions = {**options, **_AT_A_SHELL, "holder": holder, "on_progress": show}
            if goes_on:
                wanted["idempotency_key"] = stack.enter_context(kept_key(manager, disk, access, holder))
            ready = stack.enter_context(manager.export(disk, access, **wanted))
        yield ready
