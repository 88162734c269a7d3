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
class ExecutionContext:
    """Control groups and a network namespace that programs run in. By default the network is this machine's own."""

    group: Group
    throttle: Throttle | None = None
    network_namespace: str = ""

    def on(self, host: str) -> "ExecutionContext":
        return replace(self, network_namespace=host)

    def command(self, command: Sequence[str | Path]) -> list[str]:
        """The command line that runs a command in this context."""
        groups = [self.group.directory, *([self.throttle.directory] if self.throttle else [])]
        files = " ".join(str(directory / "cgroup.procs") for directory in groups)
        enter = ["nsenter", f"--net=/run/netns/{self.network_namespace}"] if self.network_namespace else []
        return ["sh", "-c", _JOIN, "sh", files, *enter, *map(str, command)]

    def run(self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> str:
        """Returns what was printed. Raises CommandFailed."""
        done = subprocess.run(self.command(command), check=False, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise CommandFailed(command, done.returncode, done.stderr)
        return done.stdout

    def start(
        self,
        command: Sequence[str | Path],
        *,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        command = self.command(command)
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment)


class CommandFailed(Exception):
    """A program of a measurement failed, so its figure would be wrong."""

    def __init__(self, command: Sequence[str | Path], status: int, output: str) -> None:
        super().__init__(f"{' '.join(map(str, command))} ended with {status}: {output.strip()[-2000:]}")
