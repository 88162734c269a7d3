"""A worker: a Python program in the test machine that uses cloudmanager's client."""

import itertools
import json
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.vm.virtual_machine import VirtualMachine

ANSWER_SECONDS = 300
LOOK_SECONDS = 0.2
PROGRAMS = "tests.vm.programs"
_numbers = itertools.count()


def assignments(environment: Mapping[str, str]) -> str:
    """For a line of shell."""
    return " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())


def bring_programs(vm: VirtualMachine) -> None:
    """Into the machine, as the package that they are here."""
    there = f"/run/code/{PROGRAMS.replace('.', '/')}"
    vm.agent.read(f"mkdir -p {there}")
    for program in Path(__file__).with_name("programs").glob("*.py"):
        vm.agent.run(f"cat >{there}/{program.name}", program.read_text())


class Worker:
    """A program says facts with `say(name=value)`, and waits with `receive()` for a line."""

    def __init__(self, vm: VirtualMachine, program: str, environment: Mapping[str, str]) -> None:
        """`program` is the name of a module among those that were brought."""
        self._agent = vm.agent
        self._at = f"/run/{program}-{next(_numbers)}"
        self._heard = 0
        self._agent.run(f"cat >{self._at}.sh", self._shell(program, environment))
        self._agent.read(f"setsid sh {self._at}.sh </dev/null >/dev/null 2>&1 &")

    def report(self) -> dict[str, Any]:
        """The next facts, awaited."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while len(lines := self._read("said").splitlines()) <= self._heard:
            assert not self.status(), self._log()
            self._pause(deadline)
        self._heard += 1
        facts: dict[str, Any] = json.loads(lines[self._heard - 1])
        return facts

    def ask(self, word: str) -> dict[str, Any]:
        self.tell(word)
        return self.report()

    def tell(self, word: str = "") -> None:
        assert not self.status(), self._log()
        self._agent.read(f"echo {word} >{self._at}.told")

    def finish(self) -> None:
        """Tells it to go on, and waits until it has ended, well."""
        self.tell()
        assert self._ended() == "0", self._log()

    def kill(self) -> None:
        self._agent.read(f"kill -KILL $(cat {self._at}.pid)")
        assert self._ended() == "137"

    def status(self) -> str:
        """Its exit status. Empty: it runs."""
        return self._read("status").strip()

    def _ended(self) -> str:
        deadline = time.monotonic() + ANSWER_SECONDS
        while not (status := self.status()):
            self._pause(deadline)
        return status

    def _shell(self, program: str, environment: Mapping[str, str]) -> str:
        """Open for writing too, the pipe neither blocks the shell nor ends after a line."""
        at = self._at
        return (
            f"mkfifo {at}.told; exec 3<>{at}.told\n"
            f"{assignments(environment)} python3 -m {PROGRAMS}.{program} <&3 >{at}.said 2>{at}.log &\n"
            f"echo $! >{at}.pid; wait $!; echo $? >{at}.status\n"
        )

    def _read(self, what: str) -> str:
        return self._agent.run(f"cat {self._at}.{what} 2>/dev/null").output

    def _pause(self, deadline: float) -> None:
        assert time.monotonic() < deadline, self._log()
        time.sleep(LOOK_SECONDS)

    def _log(self) -> str:
        return f"the worker has ended, or is late:\n{self._read('said')}{self._read('log')}"
