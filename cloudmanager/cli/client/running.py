"""cloudmanager run"""

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import typer

from cloudmanager.cli.client.waiting import exported
from cloudmanager.cli.exits import Exit
from cloudmanager.client import ExportedDisk, ExportLost
from cloudmanager.client.address import as_written
from cloudmanager.client.model import Access

_END_SECONDS = 10
_PLACEHOLDER = re.compile(r"\{(disk|file|device|stub|uri)\}")


def run(disk: str, command: list[str], access: Access, holder: str | None, *, as_json: bool) -> int:
    """Returns the command's exit status, 128 and the number for a signal, as shells do.

    Standard output is the command's. As JSON, a line on standard error tells what it ran on and how it ended.
    """
    placeholders = {placeholder for word in command for placeholder in _PLACEHOLDER.findall(word)}
    if not placeholders:
        raise typer.BadParameter(
            "nothing in the command says where the disk is to be named: "
            "write {file}, {device}, {stub}, {uri}, or {disk} for the best that this machine allows."
        )
    _check_program(command[0])
    with _Command() as running, exported(disk, access, holder=holder, on_lost=running.end) as ready:
        with _named(ready, placeholders) as names:
            status = running.run([_PLACEHOLDER.sub(lambda found: names[found[1]], word) for word in command])
    if as_json:
        report = {"disk": disk, "export": ready.id, "places": names, "status": status}
        print(json.dumps(report), file=sys.stderr)
    return status


def _check_program(program: str) -> None:
    """Before a disk is attached for it, which can take minutes."""
    if not _PLACEHOLDER.search(program) and shutil.which(program) is None:
        raise typer.BadParameter(f"{program} cannot be run: there is no such program.")


@contextmanager
def _named(ready: ExportedDisk, placeholders: set[str]) -> Iterator[dict[str, str]]:
    """The path or address for each place."""
    with ExitStack() as stack:
        names = {"uri": as_written(ready.address)}
        if "disk" in placeholders:
            names["disk"] = str(stack.enter_context(ready.open()))
        if "file" in placeholders:
            names["file"] = str(stack.enter_context(ready.file()).path)
        if "device" in placeholders:
            names["device"] = str(stack.enter_context(ready.device()).path)
        if "stub" in placeholders:
            names["stub"] = str(stack.enter_context(_stub(ready)))
        yield names


@contextmanager
def _stub(ready: ExportedDisk) -> Iterator[Path]:
    from cloudmanager.client.access_methods import AccessMethod

    with ready.open(AccessMethod.STUB) as path:
        yield path


class _Command:
    """A command of the user's, which has ended at the end of the block."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lost: ExportLost | None = None
        self._error: OSError | None = None
        self._starting: threading.Thread | None = None
        self._is_started = threading.Event()

    def __enter__(self) -> "_Command":
        return self

    def __exit__(self, *_: object) -> None:
        self._wait_or_kill()

    def run(self, command: list[str]) -> int:
        try:
            status = self._start(command).wait()
        except BaseException:  # Ctrl-C went to the command too; SIGTERM came to us alone
            self._finish_starting()
            self.end()
            self._wait_or_kill()
            raise
        return status if status >= 0 else Exit.SIGNALLED - status

    def _start(self, command: list[str]) -> "subprocess.Popen[bytes]":
        """Starts the process in a thread: a signal that interrupted the start in this one would lose the process.

        It is not joined: `join` that a signal has interrupted takes the thread for ended (CPython's bpo-45274).
        """
        self._starting = threading.Thread(target=self._spawn, args=(command,))
        self._starting.start()
        self._is_started.wait()
        if self._process is None:
            why = self._error.strerror if self._error else "it was not started"
            raise typer.BadParameter(f"{command[0]} cannot be run: {why}.") from self._error
        if self._lost:  # the command had not started
            self.end(self._lost)
        return self._process

    def _spawn(self, command: list[str]) -> None:
        try:
            self._process = subprocess.Popen(command)
        except OSError as error:
            self._error = error
        finally:
            self._is_started.set()

    def _finish_starting(self) -> None:
        if self._starting is not None:
            self._is_started.wait(_END_SECONDS)  # it may not have been begun

    def end(self, lost: ExportLost | None = None) -> None:
        """Its disk is not there any more."""
        self._lost = lost
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.terminate()

    def _wait_or_kill(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
