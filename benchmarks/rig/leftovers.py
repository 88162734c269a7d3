"""What a benchmark that was killed has left behind. Everything that one makes bears the number of its process."""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cloudmanager.testing.cloud import loop_device

BULK = Path("/var/tmp")  # noqa: S108 - on a disk, which /tmp may not be; the names below it are unguessable
MARK = "cloudmanager-bench"
END_SECONDS = 20
_NAMED = re.compile(rf"{MARK}-(\d+)-")
_LINK = re.compile(r"^cmb(\d+)(?:p\d+)?\b")


@contextmanager
def directory() -> Iterator[Path]:
    """One that goes away, on a disk."""
    with tempfile.TemporaryDirectory(prefix=f"{MARK}-{os.getpid()}-", dir=BULK) as name:
        yield Path(name)


def sweep() -> None:
    """Ends and removes what belongs to benchmarks that are no more."""
    _sweep(lambda pid: not Path("/proc", str(pid)).exists())


def sweep_own() -> None:
    """The same for this process: a signal that comes while it cleans up keeps it from that."""
    _sweep(lambda pid: pid == os.getpid())


def _sweep(wanted: Callable[[int], bool]) -> None:
    """Processes first: they use the rest."""

    def bears_number(found: re.Match[str] | None) -> bool:
        return found is not None and wanted(int(found[1]))

    for group in Path("/sys/fs/cgroup").glob(f"**/{MARK}-*"):
        if bears_number(_NAMED.match(group.name)):
            remove_group(group)
    for context in BULK.glob(f"{MARK}-*"):
        if bears_number(_NAMED.match(context.name)):
            _remove_directory(context)
    for line in _said("ip", "-oneline", "-brief", "link"):
        if bears_number(_LINK.match(line)):
            subprocess.run(["ip", "link", "delete", re.split(r"[@ ]", line)[0]], check=False, capture_output=True)
    for line in _said("ip", "netns", "list"):
        if bears_number(re.match(r"cmb(\d+)-", line)):
            subprocess.run(["ip", "netns", "delete", line.split()[0]], check=False, capture_output=True)


def remove_group(group: Path) -> None:
    """With whatever runs in it. The kernel counts a killed process as a member until it has been reaped."""
    kill = group / "cgroup.kill"
    if kill.exists():  # not in version 1, whose processes are members of a group of version 2, too
        kill.write_text("1")
    deadline = time.monotonic() + END_SECONDS
    while group.exists():
        try:
            for nested in sorted(group.glob("*/"), reverse=True):  # a service's, one for each server
                nested.rmdir()
            group.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _remove_directory(context: Path) -> None:
    """With the loop devices and mounts that are in it."""
    loop_device.detach_all(context)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        target = line.split()[1]
        if target.startswith(f"{context}/"):
            subprocess.run(["umount", "--lazy", target], check=False, capture_output=True)
    shutil.rmtree(context, ignore_errors=True)


def _said(*command: str) -> list[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
