"""Forks services from a process that has imported everything and has no threads; adopts and counts what they leave.

Run as `python -m tests.faults.scenario_runner`. A line of JSON, `{"directory": …, "scenario": …, "kills": […],
"schema": …}`, asks for one run of a scenario (`address` and `number` name a machine of an emulated cloud). The answer
is a line with what is wrong, after a last service has taken up what the killed ones left.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from cloudmanager.core.nbd import process
from tests.core.nbd.client import Client
from tests.core.nbd.exporter import children
from tests.faults.clouds import MiB
from tests.faults.scenario import SCENARIOS, Stage, play, postlude, prelude, take_up

_PR_SET_CHILD_SUBREAPER = 36
_CHILD_SECONDS = 300
"""Of a service that hangs. One that works may have to wait long for a busy machine."""
_LEAVE_SECONDS = 5.0
_SDKS = {
    "gce": ("cloudmanager.providers.gce.wiring", "google.auth.compute_engine"),
    "aws": ("cloudmanager.providers.aws.wiring",),
    "azure": ("cloudmanager.providers.azure.wiring", "azure.identity", "azure.mgmt.compute"),
}


def main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for line in sys.stdin:
        answer = _run(**json.loads(line))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _run(
    directory: str, scenario: str, kills: list[str | None], schema: str | None, address: str = "", number: int = 0
) -> dict[str, object]:
    """One run of a scenario, whose services are killed one after the other; the last one is not."""
    place = Path(directory)
    place.mkdir()
    stage = Stage(place, SCENARIOS[scenario], address, number)
    os.environ |= stage.cloud.environment()  # before anything is imported: some SDKs read the environment then
    _warm_up(stage.scenario.provider)
    stage.set_up(Path(schema) if schema else None)
    wrong: list[str] = []
    with _other_client(stage, wrong):
        for service, kill_at in enumerate(kills):
            wrong += _service(place / f"{service}.log", partial(play, stage, kill_at))
        wrong += _verdict(place, partial(take_up, stage))
    wrong += _verdict(place, partial(postlude, stage))
    wrong += _left_behind()
    points = (place / "points").read_text().splitlines() if (place / "points").exists() else []
    if not wrong:
        shutil.rmtree(place)
    return {"points": points, "wrong": wrong}


def _warm_up(provider: str) -> None:
    """What each child would have to import for itself."""
    for module in _SDKS.get(provider, ()):
        importlib.import_module(module)


@contextmanager
def _other_client(stage: Stage, wrong: list[str]) -> Iterator[None]:
    """Where the disk is shared: its connection is never cut."""
    if not stage.scenario.shared:
        yield
        return
    wrong += _service(stage.directory / "prelude.log", partial(prelude, stage))
    reported = stage.reported()
    with Client.greeted(int(str(reported["other_port"])), str(reported["other_name"])) as client:
        yield
        try:
            client.read(0, MiB)
        except OSError as error:
            wrong.append(f"the other client was cut: {error!r}")


def _service(log: Path, work: Callable[[], None]) -> list[str]:
    """A service that may be killed, and may not fail otherwise."""
    status = _forked(log, work)
    return [] if status in (0, -signal.SIGKILL) else [f"ended with {status}: {_end_of(log)}"]


def _verdict(place: Path, work: Callable[[], list[str]]) -> list[str]:
    """What a service says that is wrong."""
    verdict = place / "wrong"
    verdict.unlink(missing_ok=True)
    failed = _service(place / "verdict.log", lambda: _note(verdict, work()))
    return failed or list(json.loads(verdict.read_text()))


def _note(path: Path, wrong: list[str]) -> None:
    path.write_text(json.dumps(wrong))


def _forked(log: Path, work: Callable[[], None]) -> int:
    """The exit status of a child that does the work; negative for a signal."""
    child = os.fork()
    if child == 0:
        _become(log, work)
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def _become(log: Path, work: Callable[[], None]) -> None:
    """Ends with the process."""
    signal.alarm(_CHILD_SECONDS)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(output, number)
    try:
        work()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _left_behind() -> list[str]:
    """Processes that nobody owns any more; they are ended."""
    deadline = time.monotonic() + _LEAVE_SECONDS
    with suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)  # a launcher is about to follow its server
        left = children(os.getpid())
        found = [f"{process.command_line(pid)} is left" for pid in left]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        return found
    return []


def _end_of(log: Path) -> str:
    return log.read_text()[-3000:]


if __name__ == "__main__":
    main()
