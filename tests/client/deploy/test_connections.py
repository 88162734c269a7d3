"""A connection is kept for who comes next, and only while its server can be there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cloudmanager.client.deploy.nbd_ends import Connections
from cloudmanager.transfer.libnbd import Patience
from tests.client.deploy import images
from tests.client.deploy.servers import serving


class Broken(Exception):
    """Of what uses a connection."""


@pytest.fixture
def connections(tmp_path: Path) -> Iterator[Connections]:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(images.MIB))
    with serving(disk) as server, Connections(server.address) as connections:
        yield connections


def test_one_is_kept_and_waits_as_long_as_the_next_user_says(connections: Connections) -> None:
    with connections.one(Patience()) as first:
        pass
    patience = Patience(stall_seconds=3)
    with connections.one(patience) as second:
        assert second is first
        assert second.patience is patience


def test_those_who_use_one_at_the_same_time_have_one_each(connections: Connections) -> None:
    with connections.one(Patience()) as first, connections.one(Patience()) as second:
        assert second is not first


def test_after_an_error_neither_that_one_nor_the_kept_one_is_used_again(connections: Connections) -> None:
    with connections.one(Patience()) as kept, connections.one(Patience()) as broken:
        pass
    with suppress(Broken), connections.one(Patience()) as first, connections.one(Patience()) as second:
        with connections.one(Patience()) as third:
            pass
        raise Broken
    assert first in (kept, broken)
    with connections.one(Patience()) as after:
        assert after not in (first, second, third)
        assert after.size_bytes == images.MIB
