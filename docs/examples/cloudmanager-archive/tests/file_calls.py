"""What a provider of files does, as the suite's log of calls: Python's audit events show it, without its help."""

import functools
import os
import socket
import sys
import threading
from pathlib import Path

from cloudmanager.testing.cloud.calls import Call, CallLog

STEPS = {"shutil.copyfile": 1, "os.rename": 1, "os.remove": 0}
"""Event → which of its arguments is the path that changes."""
LONGEST_MESSAGE = 4096


class FileCalls(CallLog):
    """The steps that are taken below a directory, by this process or by one that it forked.

    A step is noted before it is taken. A forked process waits until its step was noted here, so that a check can kill
    it at every one. Files with a dot in front are not there yet: only the others count as changes.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory.resolve()
        self._process = os.getpid()
        self._here, self._there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener = threading.Thread(target=self._listen, name="file-calls")

    def start(self) -> None:
        self._listener.start()
        _watched().append(self)

    def stop(self) -> None:
        _watched().remove(self)
        self._there.shutdown(socket.SHUT_RDWR)
        self._listener.join()
        self._here.close()
        self._there.close()

    def saw(self, event: str, path: Path) -> None:
        if path.parent != self._directory:
            return
        if os.getpid() == self._process:
            self._note(event, path.name)
            return
        message = f"{os.getpid()}\0{event}\0{path.name}".encode()
        self._there.sendall(message)
        while self._there.recv(LONGEST_MESSAGE) != message:
            """An answer to a process that was killed while it waited."""

    def _note(self, event: str, name: str) -> None:
        is_change = event != "shutil.copyfile" and not name.startswith(".")
        self.add(Call(event, name, is_change, status=0))

    def _listen(self) -> None:
        while message := self._here.recv(LONGEST_MESSAGE):
            _, event, name = message.decode().split("\0")
            self._note(event, name)
            self._here.sendall(message)


@functools.cache
def _watched() -> list[FileCalls]:
    """An audit hook stays for the life of the process, so there is one, and it looks here."""
    watched: list[FileCalls] = []

    def look(event: str, arguments: tuple[object, ...]) -> None:
        if event in STEPS:
            path = Path(str(arguments[STEPS[event]]))
            for calls in watched:
                calls.saw(event, path)

    sys.addaudithook(look)
    return watched
