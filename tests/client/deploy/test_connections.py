"""A connection is kept for who comes next, and only while its server can be there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cloudmanager.client.deploy.nbd_ends import NbdConnections
from cloudmanager.transfer.libnbd import Timeouts
from tests.client.deploy import images
from tests.client.deploy.servers import serving


class Broken(Exception):
    """Of what uses a connection."""


@pytest.fixture
def connections(tmp_path: Path) -> Iterator[NbdConnections]:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(images.MIB))
    with serving(disk) as server, NbdConnections(server.address) as connections:
        yield connections


def test_one_is_kept_and_waits_as_long_as_the_next_user_says(connections: NbdConnections) -> None:
    with connections.one(Timeouts()) as first:
        pass
    timeouts = Timeouts(stall_seconds=3)
    with connections.one(timeouts) as second:
        assert second is first
        assert second.timeouts is timeouts


def test_those_who_use_one_at_the_same_time_have_one_each(connections: NbdConnections) -> None:
    with connections.one(Timeouts()) as first, connections.one(Timeouts()) as second:
        assert second is not first


def test_after_an_error_neither_that_one_nor_the_kept_one_is_used_again(connections: NbdConnections) -> None:
    with connections.one(Timeouts()) as kept, connections.one(Timeouts()) as broken:
        pass
    with suppress(Broken), connections.one(Timeouts()) as first, connections.one(Timeouts()) as second:
        with connections.one(Timeouts()) as third:
            pass
        raise Broken
    assert first in (kept, broken)
    with connections.one(Timeouts()) as after:
        assert after not in (first, second, third)
        assert after.size_bytes == images.MIB
