"""qemu-nbd, as many as wanted, each started by a line of shell: the yardstick for starting."""

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rig import leftovers
from benchmarks.rig.cgroup import Group, group
from benchmarks.rig.ports import free_ports

END_SECONDS = 10


@dataclass(frozen=True)
class ByShell:
    image: Path
    directory: Path
    """Of the pid files."""
    group: Group
    """Of its processes."""

    def start_one(self) -> float:
        """Seconds until it is ready."""
        port = free_ports(1)[0]
        return self._timed(["sh", "-c", self._line, "sh", str(port)])

    def start_many(self, count: int, at_once: int) -> float:
        """Seconds until all are ready."""
        ports = "\n".join(map(str, free_ports(count)))
        return self._timed(["xargs", "-P", str(at_once), "-n", "1", "sh", "-c", self._line, "sh"], ports)

    def stop_all(self) -> None:
        for file in self.directory.glob("*.pid"):
            pid = int(file.read_text())
            ended = os.pidfd_open(pid)
            os.kill(pid, signal.SIGTERM)
            select.select([ended], [], [], END_SECONDS)
            os.close(ended)
            file.unlink(missing_ok=True)

    @property
    def _line(self) -> str:
        """The founding design's, with an address, and in the background once it is ready; `$1` is its port."""
        return (
            "qemu-nbd --fork --persistent --shared=100 --read-only --format=raw --bind=127.0.0.1 "
            f"--port=$1 --pid-file={self.directory}/$1.pid {self.image}"
        )

    def _timed(self, command: list[str], stdin: str = "") -> float:
        with self.group.joined():
            began = time.perf_counter()
            subprocess.run(command, input=stdin, text=True, check=True)
            return time.perf_counter() - began


@contextmanager
def by_shell(image: Path) -> Iterator[ByShell]:
    with leftovers.directory() as directory, group() as own:
        yield ByShell(image, directory, own)
