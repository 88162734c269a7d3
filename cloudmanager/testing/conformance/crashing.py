"""Checks of what a process leaves behind that was killed."""

import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from cloudmanager.core.model import Attachment
from cloudmanager.testing.cloud.calls import Call
from cloudmanager.testing.conformance.checks import (
    Checks,
    Committed,
    assert_free,
    assert_is,
    attach,
    commit,
    plan,
)
from cloudmanager.testing.conformance.harness import Harness

_MOST_CALLS = 40
"""No provider needs as many calls for an attach; a check that gets there is broken."""


class CrashingChecks(Checks):
    """12 and 27 of the list. A child process does the work, and is killed while the cloud is about to answer it."""

    def test_killed_after_any_call_of_an_attach_the_next_process_converges(self, harness: Harness) -> None:
        """On an attachment that is known as ours, and that can be detached without a trace."""
        for calls in range(1, _MOST_CALLS):
            native = harness.make_disk()
            made = plan(harness.make_provider(), native)
            committed = commit(harness, made)
            was_killed = _killed_after(harness, calls, partial(_attach, harness, committed))
            provider = harness.make_provider()
            attachment = committed.attach(provider)
            assert (attachment.slot, attachment.request_id) == (made.slot, made.request_id)
            assert_is(provider.locate(made.disk), harness, native)
            provider.detach(attachment)
            assert_free(harness, native)
            if not was_killed:
                return
        raise AssertionError(f"an attach takes more than {_MOST_CALLS} calls")

    def test_killed_after_any_call_of_an_attach_a_detach_leaves_nothing(self, harness: Harness) -> None:
        for calls in range(1, _MOST_CALLS):
            native = harness.make_disk()
            committed = commit(harness, plan(harness.make_provider(), native))
            was_killed = _killed_after(harness, calls, partial(_attach, harness, committed))
            harness.make_provider().detach(committed.ours)
            assert_free(harness, native)
            if not was_killed:
                return
        raise AssertionError(f"an attach takes more than {_MOST_CALLS} calls")

    def test_killed_after_any_call_of_a_detach_the_next_process_converges(self, harness: Harness) -> None:
        for calls in range(1, _MOST_CALLS):
            native = harness.make_disk()
            done = attach(harness.make_provider(), native)
            was_killed = _killed_after(harness, calls, partial(_detach, harness, done.attachment))
            harness.make_provider().detach(done.attachment)
            assert_free(harness, native)
            if not was_killed:
                return
        raise AssertionError(f"a detach takes more than {_MOST_CALLS} calls")


def _attach(harness: Harness, committed: Committed) -> None:
    committed.attach(harness.make_provider())


def _detach(harness: Harness, attachment: Attachment) -> None:
    harness.make_provider().detach(attachment)


def _killed_after(harness: Harness, calls: int, action: Callable[[], object]) -> bool:
    """Does `action` in a child process that is killed when the cloud has carried out that many calls.

    False when the child was done before.
    """
    ready, go = os.pipe()
    child = _fork(ready, action)
    os.close(ready)
    victim = _Victim(child, calls)
    unwatch = harness.calls.watch(victim.on_call)
    os.write(go, b"x")
    os.close(go)
    _, status = os.waitpid(child, 0)
    unwatch()
    victim.gone.set()
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "the child process failed; its traceback is above"
    return False


class _Victim:
    """Kills a process at its n-th call."""

    def __init__(self, pid: int, calls: int) -> None:
        self.gone = threading.Event()
        self._pid = pid
        self._left = calls
        self._lock = threading.Lock()

    def on_call(self, _: Call) -> None:
        """Called after a call was carried out, and before it is answered."""
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(self._pid, signal.SIGKILL)
                self.gone.wait(10)


def _fork(ready: int, action: Callable[[], object]) -> int:
    """The child begins when something can be read from `ready`, so that it is watched from its first call on."""
    with warnings.catch_warnings():
        # The child uses none of the parent's threads and locks, and ends without cleaning up.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _live(ready, action)
    return child


def _live(ready: int, action: Callable[[], object]) -> NoReturn:
    status = 1
    try:
        os.read(ready, 1)
        action()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
