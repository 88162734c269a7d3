"""Our use of libnbd's C interface."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloudmanager.transfer.buffers import Buffer
from cloudmanager.transfer.libnbd import Connection, LibnbdFailure, Timeouts
from tests.client.deploy import images
from tests.client.deploy.servers import serving


def test_extents_are_those_of_the_file(raw: Path) -> None:
    with serving(raw, "--read-only", "--shared=8") as server, Connection(server.address, Timeouts()) as connection:
        extents = list(connection.extents(0, images.SIZE))
    assert sum(extent.length for extent in extents) == images.SIZE
    data = [extent for extent in extents if not extent.is_zero]
    descriptor = os.open(raw, os.O_RDONLY)
    try:
        for extent in data:
            assert os.lseek(descriptor, extent.offset, os.SEEK_DATA) == extent.offset
            assert os.lseek(descriptor, extent.offset, os.SEEK_HOLE) == extent.end
    finally:
        os.close(descriptor)
    assert sum(extent.length for extent in data) < images.SIZE // 2


def test_a_refused_request_is_an_error_and_the_connection_lives_on(raw: Path) -> None:
    buffer = Buffer()
    with serving(raw, "--read-only", "--shared=8") as server, Connection(server.address, Timeouts()) as connection:
        with pytest.raises(LibnbdFailure):
            connection.wait(connection.start_write(buffer.address, 4096, 0))
        connection.wait(connection.start_read(buffer.address, 4096, 0))
    with raw.open("rb") as file:
        assert file.read(4096) == bytes(buffer.view[:4096])
