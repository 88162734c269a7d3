"""Ports for services under test.

Each process of a test run has a block of its own below the ports that the kernel gives to connections, so that nobody
takes a port while its service is away, and no two runs on a machine choose the same.
"""

import fcntl
import os
import secrets
import socket
import tempfile
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path

_FIRST, _BLOCK, _BLOCKS = 11_900, 1000, 20
_handed_out = count()


def free_port() -> int:
    return free_ports(1).start


def free_ports(number: int) -> range:
    """Ports in a row; the first one is free on loopback."""
    block = _own_block()
    for _ in range(_BLOCK):
        start = next(_handed_out) % _BLOCK
        if start + number > _BLOCK:
            continue
        for _ in range(number - 1):
            next(_handed_out)
        if _is_free(block + start):
            return range(block + start, block + start + number)
    raise AssertionError("no port is free")


@cache
def _own_block() -> int:
    """The first port of a block that is locked until this process ends."""
    directory = Path(tempfile.gettempdir(), f"cloudmanager-test-ports-{os.geteuid()}")
    directory.mkdir(mode=0o700, exist_ok=True)
    begin = secrets.randbelow(_BLOCKS)
    for at in range(_BLOCKS):
        number = (begin + at) % _BLOCKS
        lock = os.open(directory / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return _FIRST + number * _BLOCK
        os.close(lock)
    return _FIRST + begin * _BLOCK  # more runs than blocks: as good as it gets


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
