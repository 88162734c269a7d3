"""A loop device that is being made when a signal comes is found by whoever cleans up."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from cloudmanager.testing.cloud import loop_device

START = threading.Thread.start


class Interrupting(subprocess.Popen[str]):
    """A program; this process is interrupted as soon as it runs."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[call-overload] # whatever it is called with
        os.kill(os.getpid(), signal.SIGINT)


def _start_and_interrupt(thread: threading.Thread) -> None:
    START(thread)
    raise KeyboardInterrupt


@pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")
@pytest.mark.parametrize(
    ("where", "name", "interrupted"),
    [(subprocess, "Popen", Interrupting), (threading.Thread, "start", _start_and_interrupt)],
    ids=["program", "thread"],
)
def test_an_interrupt_while_a_device_is_made_leaves_none(
    where: object, name: str, interrupted: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "disk"
    file.write_bytes(bytes(2**20))
    with monkeypatch.context() as patch:
        patch.setattr(where, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            loop_device.attach(file)
    loop_device.detach_all(tmp_path)
    time.sleep(0.1)  # one that would still come cannot be waited for
    links = Path("/sys/block").glob("loop*")
    assert [link for link in links if loop_device.backing_file(link).startswith(str(tmp_path))] == []
