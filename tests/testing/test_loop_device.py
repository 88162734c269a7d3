"""Loop devices beside other programs that take and free theirs, and beside signals."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from cloudmanager.testing.cloud import loop_device

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")
START = threading.Thread.start


class Interrupting(subprocess.Popen[str]):
    """A program; this process is interrupted as soon as it runs."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[call-overload] # whatever it is called with
        os.kill(os.getpid(), signal.SIGINT)


def _start_and_interrupt(thread: threading.Thread) -> None:
    START(thread)
    raise KeyboardInterrupt


@needs_root
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


@needs_root
def test_a_device_that_has_another_file_by_now_is_left_alone(tmp_path: Path) -> None:
    """Somebody else freed it, and another program took its number."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    other.write_bytes(bytes(2**20))
    loop = loop_device.attach(other)
    try:
        assert loop_device.detach(loop, mine)
        assert loop_device.backing_file(loop) == str(other)
    finally:
        assert loop_device.detach(loop, other)
    assert loop_device.backing_file(loop) != str(other)
