"""Where a program runs: on which host, in which groups."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from benchmarks.rig.cgroup import Group, Throttle

# Joining is done by the process itself, before it becomes the program: no moment is left uncounted.
_JOIN = 'for file in $1; do echo $$ >"$file" || exit; done; shift; exec "$@"'


@dataclass(frozen=True)
class Place:
    """This machine, unless more is said."""

    group: Group
    throttle: Throttle | None = None
    network_namespace: str = ""

    def on(self, host: str) -> "Place":
        return replace(self, network_namespace=host)

    def command(self, words: Sequence[str | Path]) -> list[str]:
        """The words, so that they run here."""
        groups = [self.group.directory, *([self.throttle.directory] if self.throttle else [])]
        files = " ".join(str(directory / "cgroup.procs") for directory in groups)
        enter = ["nsenter", f"--net=/run/netns/{self.network_namespace}"] if self.network_namespace else []
        return ["sh", "-c", _JOIN, "sh", files, *enter, *map(str, words)]

    def run(self, words: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> str:
        """Returns what was printed. Raises CommandFailed."""
        done = subprocess.run(self.command(words), check=False, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise CommandFailed(words, done.returncode, done.stderr)
        return done.stdout

    def start(
        self,
        words: Sequence[str | Path],
        *,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        command = self.command(words)
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment)


class CommandFailed(Exception):
    """A program of a measurement ended badly: the figure would be a lie."""

    def __init__(self, words: Sequence[str | Path], status: int, said: str) -> None:
        super().__init__(f"{' '.join(map(str, words))} ended with {status}: {said.strip()[-2000:]}")
