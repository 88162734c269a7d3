"""A loop device that is being made when a signal comes is found by whoever cleans up."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from cloudmanager.testing.cloud import loop_device


def test_an_interrupt_while_a_device_is_made_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "disk"
    file.write_bytes(bytes(2**20))

    class Interrupted(subprocess.Popen[str]):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[call-overload] # whatever it is called with
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            loop_device.attach(file)
    loop_device.detach_all(tmp_path)
    links = Path("/sys/block").glob("loop*")
    assert [link for link in links if loop_device.backing_file(link).startswith(str(tmp_path))] == []
