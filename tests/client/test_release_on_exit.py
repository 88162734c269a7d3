"""How a worker may end, and that the export is given back each time. Each worker is a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.client.daemon import Daemon
from tests.waiting import BOUND, eventually

THREADS = """
import os, sys, threading, time
from cloudmanager.client import CloudManager
manager = CloudManager()
with manager.export("local:a.img", **OPTIONS) as disk:
    print(disk.id, flush=True)
    WORK
print("the block ended", flush=True)
"""
COROUTINES = """
import asyncio, os, sys
from cloudmanager.client import AsyncCloudManager
async def main():
    async with AsyncCloudManager().export("local:a.img", **OPTIONS) as disk:
        print(disk.id, flush=True)
        WORK
    print("the block ended", flush=True)
asyncio.run(main())
"""
SLEEPS = {THREADS: "time.sleep(100)", COROUTINES: "await asyncio.sleep(100)"}
BOTH = pytest.mark.parametrize("script", [THREADS, COROUTINES], ids=["threads", "coroutines"])


@contextmanager
def worker(daemon: Daemon, script: str, work: str, options: str = "{}") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A worker in its block, and the id of its export."""
    code = script.replace("WORK", work).replace("OPTIONS", options)
    environment = {**os.environ, "CLOUDMANAGER_URL": daemon.url}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            export_id = process.stdout.readline().strip()
            assert export_id, process.stderr.read()
            yield process, export_id
        finally:
            process.kill()


@BOTH
def test_sigterm_can_end_the_block_in_order(daemon: Daemon, script: str) -> None:
    with worker(daemon, script, SLEEPS[script], "{'release_on_sigterm': True}") as (process, export_id):
        process.terminate()
        output, complaint = process.communicate(timeout=BOUND)
    assert process.returncode == 128 + signal.SIGTERM
    assert (output, complaint) == ("", "")
    assert daemon.state_of(export_id) in ("closing", "closed")


@BOTH
def test_ctrl_c_releases_it(daemon: Daemon, script: str) -> None:
    with worker(daemon, script, SLEEPS[script]) as (process, export_id):
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=BOUND)
    assert "KeyboardInterrupt" in complaint
    assert "ExportLost" not in complaint
    assert daemon.state_of(export_id) in ("closing", "closed")


@BOTH
def test_a_worker_that_is_killed_keeps_it_only_for_its_time(daemon: Daemon, script: str) -> None:
    with worker(daemon, script, SLEEPS[script], "{'ttl_seconds': 1}") as (process, export_id):
        assert daemon.state_of(export_id) == "ready"
        process.kill()
        process.communicate(timeout=BOUND)
        eventually(lambda: daemon.state_of(export_id) == "closed")


def test_sigterm_in_its_own_way_is_left_to_the_program(daemon: Daemon) -> None:
    mine = "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print(flush=True); time.sleep(100)"
    with worker(daemon, THREADS, mine) as (process, export_id):
        process.stdout.readline()
        process.terminate()
        process.communicate(timeout=BOUND)
    assert process.returncode == 7
    assert daemon.state_of(export_id) in ("closing", "closed")


def test_the_handler_of_a_program_is_not_taken_away(daemon: Daemon) -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        from cloudmanager.client import CloudManager, errors

        with pytest.raises(errors.InvalidSetup, match="handles SIGTERM already"):
            with CloudManager(daemon.url).export("local:a.img", release_on_sigterm=True):
                pytest.fail("the block ran")
    finally:
        signal.signal(signal.SIGTERM, before)


def test_nested_blocks_both_end_on_sigterm_and_leave_the_signal_as_it_was(daemon: Daemon) -> None:
    nested = """
    with manager.export("local:a.img", **OPTIONS) as inner:
        print(inner.id, flush=True)
        time.sleep(100)
"""
    with worker(daemon, THREADS, nested.strip(), "{'release_on_sigterm': True}") as (process, outer):
        inner = process.stdout.readline().strip()
        process.terminate()
        _, complaint = process.communicate(timeout=BOUND)
    assert (process.returncode, complaint) == (128 + signal.SIGTERM, "")
    assert {daemon.state_of(outer), daemon.state_of(inner)} <= {"closing", "closed"}
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_abandoned_thread_s_export_is_released_when_the_interpreter_ends(daemon: Daemon) -> None:
    abandoned = """
import threading
from cloudmanager.client import CloudManager
ready, never = threading.Event(), threading.Event()
def work():
    with CloudManager().export("local:a.img") as disk:
        print(disk.id, flush=True)
        ready.set()
        never.wait()
threading.Thread(target=work, daemon=True).start()
ready.wait()
"""
    with worker(daemon, abandoned, "") as (process, export_id):
        process.communicate(timeout=BOUND)
    assert process.returncode == 0
    assert daemon.state_of(export_id) in ("closing", "closed")


def test_a_forked_process_that_ends_does_not_take_the_export_along(daemon: Daemon) -> None:
    forks = """
    child = os.fork()
    if child == 0:
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert manager.get(disk.id).state == "ready"
    disk.check()
"""
    with worker(daemon, THREADS, forks.strip()) as (process, export_id):
        output, complaint = process.communicate(timeout=BOUND)
    assert (output, complaint, process.returncode) == ("the block ended\n", "", 0)
    assert daemon.state_of(export_id) in ("closing", "closed")


def test_a_forked_process_can_use_the_address_however_long_it_lives(daemon: Daemon) -> None:
    forks = """
    child = os.fork()
    if child == 0:
        time.sleep(1.3)
        os._exit(0 if disk.uri else 1)
    assert os.waitpid(child, 0)[1] == 0
"""
    with worker(daemon, THREADS, forks.strip(), "{'ttl_seconds': 1}") as (process, _):
        output, complaint = process.communicate(timeout=BOUND)
    assert (output, complaint, process.returncode) == ("the block ended\n", "", 0)


def test_a_service_that_is_away_does_not_hold_up_the_end(own_daemon: Daemon) -> None:
    own_daemon.started()
    script = THREADS.replace("CloudManager()", "CloudManager(retry_seconds=0.2)")
    with worker(own_daemon, script, "sys.stdin.read()", "{'look_seconds': 0.05}") as (process, _):
        own_daemon.stop()
        _, complaint = process.communicate("", timeout=BOUND)
    assert process.returncode == 0
    assert "was not released; it ends by itself" in complaint
