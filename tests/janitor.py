"""Tidies up after a pytest that was killed, so that the next one finds no mount and no process of it.

Run as `python janitor.py DIRECTORY`. It waits until its standard input ends. If nobody dismissed it before, whatever
uses the directory is ended: processes with their children, mounts, loop devices.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_DISMISSED = b"dismissed"
_PATIENCE_SECONDS = 10
_ROUNDS = 50
"""Of ending processes; those that are ended may just have started others."""


class Janitor:
    """Waits for the end of this process, however it comes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._began = _stat(os.getpid())[1]
        command = [sys.executable, __file__, str(directory)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, cwd="/")

    def dismiss(self) -> list[str]:
        """There is nothing to do for it. Returns what still uses the directory, once there has been time to end."""
        self._process.communicate(_DISMISSED)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (left := _uses(str(self._directory), self._began)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left


def main(directory: str) -> None:
    if sys.stdin.buffer.read() == _DISMISSED:
        return
    for _ in range(_ROUNDS):
        if not (pids := _users(directory, _stat(os.getpid())[1])):
            break
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    for mount in sorted(_mounts(directory), reverse=True):  # what is mounted below another one first
        subprocess.run(["umount", "--lazy", mount], check=False)
    for device in _loop_devices(directory):
        subprocess.run(["losetup", "--detach", device], check=False)


def _uses(directory: str, began: int) -> list[str]:
    """Processes, mounts and loop devices, as a person would name them."""
    running = {pid: " ".join(_words(pid)) for pid in _users(directory, began)}
    processes = [f"process {pid}: {arguments}" for pid, arguments in running.items() if arguments]
    mounts = [f"mount {place}" for place in _mounts(directory)]
    return [*processes, *mounts, *(f"loop device {device}" for device in _loop_devices(directory))]


def _users(directory: str, began: int) -> set[int]:
    """Processes that have the directory on their command line or a file below it open, with their descendants.

    Only such as began after that moment: what a person looks at the directory with may stay.
    """
    children: dict[int, set[int]] = defaultdict(set)
    found = set()
    for pid in _pids():
        with suppress(OSError):
            parent, start = _stat(pid)
            children[parent].add(pid)
            if start >= began and (_names(pid, directory) or _has_open(pid, directory)):
                found.add(pid)
    found.discard(os.getpid())
    unseen = set(found)
    while unseen:
        unseen = {child for pid in unseen for child in children[pid]} - found
        found |= unseen
    return found


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def _stat(pid: int) -> tuple[int, int]:
    """The parent, and the moment of the start."""
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return int(fields[1]), int(fields[19])


def _words(pid: int) -> list[str]:
    """Of its command line; none once it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    return []


def _names(pid: int, directory: str) -> bool:
    return any(f"{directory}/" in word or word.endswith(directory) for word in _words(pid))


def _has_open(pid: int, directory: str) -> bool:
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if str(descriptor.readlink()).startswith(f"{directory}/"):
                return True
    return False


def _mounts(directory: str) -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place = line.split()[4].replace("\\040", " ")
        if place.startswith(f"{directory}/"):
            yield place


def _loop_devices(directory: str) -> Iterator[Path]:
    for device in Path("/sys/block").glob("loop*"):
        with suppress(OSError):
            if (device / "loop" / "backing_file").read_text().startswith(f"{directory}/"):
                yield Path("/dev") / device.name


if __name__ == "__main__":
    main(*sys.argv[1:])
