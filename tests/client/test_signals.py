"""Signals that end a process, where an exception would be lost."""

from __future__ import annotations

import signal
import threading

import pytest

from cloudmanager.client.signals import unwinding_on_sigterm

_AMID_AN_IMPORT = compile("signal.raise_signal(signal.SIGTERM)\ndone.set()", "<frozen importlib._bootstrap>", "exec")


def test_sigterm_amid_an_import_ends_the_block_once_the_import_has_gone_on() -> None:
    done = threading.Event()
    with pytest.raises(SystemExit) as ended:
        _end_amid_an_import(done)
    assert ended.value.code == 128 + signal.SIGTERM
    assert done.is_set()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def _end_amid_an_import(done: threading.Event) -> None:
    with unwinding_on_sigterm():
        exec(_AMID_AN_IMPORT, {"signal": signal, "done": done})  # noqa: S102 - as importlib's own code is run
        threading.Event().wait(60)
