"""A server that has opened everything stands still until it is released, and ends with whoever was to release it."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cloudmanager.confined import Ended, NoAnswer, Process, Spawner
from tests.checkout import ROOT
from tests.confined.runs import PYTHON, SECONDS, started

SERVER = """
import os, socket
file = open("/usr/bin/env")
os.chdir("/")
listener = socket.socket(fileno=3)
while True:
    connection, _ = listener.accept()
    connection.sendall(b"hello")
"""
SANDBOXES = pytest.mark.parametrize("is_sandboxed", [True, False], ids=["sandbox", "none"])


def deadline() -> float:
    return time.monotonic() + SECONDS


@SANDBOXES
def test_nobody_is_answered_before_the_release(is_sandboxed: bool) -> None:
    with (
        Spawner(is_sandboxed=is_sandboxed, holds=True) as spawner,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname(), timeout=SECONDS) as client,
        started(spawner, [PYTHON, "-c", SERVER], listener=listener.fileno()) as (launched, _),
    ):
        with launched.held(deadline()):
            held = [os.readlink(entry) for entry in Path(f"/proc/{launched.server.pid}/fd").iterdir()]  # noqa: PTH115
            assert any(target.endswith("/usr/bin/env") for target in held)
            assert not select.select([client], [], [], 0.2)[0]
        assert client.recv(5) == b"hello"


@SANDBOXES
def test_a_server_that_ends_before_is_noticed_and_leaves_no_zombie(is_sandboxed: bool) -> None:
    with Spawner(is_sandboxed=is_sandboxed, holds=True) as spawner:
        with started(spawner, [PYTHON, "-c", "raise SystemExit(7)"]) as (launched, _):
            with pytest.raises(Ended), launched.held(deadline()):
                pytest.fail("it is not held")
            assert launched.reap() == 7


@SANDBOXES
def test_a_server_that_opens_for_ever_is_given_up(is_sandboxed: bool) -> None:
    with Spawner(is_sandboxed=is_sandboxed, holds=True) as spawner:
        with started(spawner, ["/bin/sleep", "1000"]) as (launched, _):
            with pytest.raises(NoAnswer), launched.held(time.monotonic() + 0.1):
                pytest.fail("it is not held")


@SANDBOXES
def test_signals_reach_it_and_do_not_stop_it(is_sandboxed: bool) -> None:
    program = "import os, signal, time; os.write(1, b'up'); time.sleep(0.2); os.chdir('/'); time.sleep(1000)"
    with Spawner(is_sandboxed=is_sandboxed, holds=True) as spawner:
        with started(spawner, [PYTHON, "-c", program]) as (launched, stderr):
            while not stderr.read():
                time.sleep(0.01)
            launched.server.send(signal.SIGSTOP)
            launched.server.send(signal.SIGWINCH)
            with launched.held(deadline()):
                pass
            if not is_sandboxed:  # the first process of a namespace gets no signal that it does not handle
                launched.server.send(signal.SIGTERM)
                assert launched.server.wait(SECONDS)


STARTER = """
import os, socket, sys, time
from cloudmanager.confined import *
from tests.confined.runs import PYTHON, started
from tests.confined.test_hold import SERVER
listener = socket.socket(fileno=int(sys.argv[1]))
spawner = Spawner(is_sandboxed=sys.argv[2] == "True", holds=True)
with started(spawner, [PYTHON, "-c", SERVER], listener=listener.fileno()) as (launched, _):
    with launched.held(time.monotonic() + 60):
        print(launched.server.pid, flush=True)
        time.sleep(1000)
"""


@SANDBOXES
def test_a_server_ends_when_the_service_is_killed_before_it_has_proved_it(is_sandboxed: bool) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname(), timeout=SECONDS) as client,
    ):
        arguments = [sys.executable, "-c", STARTER, str(listener.fileno()), str(is_sandboxed)]
        with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, pass_fds=[listener.fileno()]) as service:
            assert service.stdout
            server = Process(int(service.stdout.readline()))
            service.kill()
        assert server.wait(SECONDS)
        server.close()
        assert not select.select([client], [], [], 0)[0]


def test_a_program_whose_tracer_is_gone_cannot_go_on() -> None:
    """Its call fails: what it would do after it is not done."""
    once = "import os; os.write(1, b'one '); os.chdir('/'); os.write(1, b'two')"
    with (
        Spawner(is_sandboxed=True, holds=True) as spawner,
        started(spawner, [PYTHON, "-c", once]) as (first, stderr),
    ):
        with first.held(deadline()):
            pass
        assert first.server.wait(SECONDS)
        assert stderr.read() == "one two"
    twice = "import os; os.chdir('/'); os.write(1, b'one '); os.chdir('/'); os.write(1, b'two')"
    with Spawner(is_sandboxed=True, holds=True) as spawner, started(spawner, [PYTHON, "-c", twice]) as (second, stderr):
        with second.held(deadline()):
            pass
        assert second.server.wait(SECONDS)
        assert "Function not implemented" in stderr.read()
        assert "two" not in stderr.read()
