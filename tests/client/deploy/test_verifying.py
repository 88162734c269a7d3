"""A difference between image and target is found, and the first one is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloudmanager.client.deploy import Phase, Progress, Result
from cloudmanager.client.deploy.errors import DifferenceFound
from tests.client.deploy import images
from tests.client.deploy.conftest import Put
from tests.client.deploy.servers import Server

BLOCK = 256 * 1024


def _content_at(raw: Path, start: int) -> int:
    descriptor = os.open(raw, os.O_RDONLY)
    try:
        return os.lseek(descriptor, start, os.SEEK_DATA)
    finally:
        os.close(descriptor)


def _hole_at(raw: Path, start: int) -> int:
    descriptor = os.open(raw, os.O_RDONLY)
    try:
        return os.lseek(descriptor, start, os.SEEK_HOLE)
    finally:
        os.close(descriptor)


def _flip(disk: Path, offset: int) -> None:
    descriptor = os.open(disk, os.O_RDWR)
    try:
        os.pwrite(descriptor, bytes([os.pread(descriptor, 1, offset)[0] ^ 0x10]), offset)
    finally:
        os.close(descriptor)


def _deploy_and_flip(put: Put, source: Path, server: Server, *offsets: int) -> Result:
    """The bits flip when everything is written, and before it is compared: the listener is told in between."""
    is_done = False

    def tell(progress: Progress) -> None:
        nonlocal is_done
        if progress.phase is Phase.VERIFYING and not is_done:
            is_done = True
            for offset in offsets:
                _flip(server.disk, offset)

    return put(source, server.address, verify=True, progress=tell)


def test_a_good_target_is_verified_and_holes_are_not_read(raw: Path, blank: Server, put: Put) -> None:
    assert put(raw, blank.address, verify=True).is_verified


@pytest.mark.parametrize("form", ["raw", "zstd"])
@pytest.mark.parametrize("where", ["content", "hole"])
def test_a_flipped_bit_is_found_and_its_range_named(where: str, form: str, raw: Path, blank: Server, put: Put) -> None:
    source = raw if form == "raw" else images.compressed(raw, "zstd")
    offset = (_content_at if where == "content" else _hole_at)(raw, 70 * images.MIB) + 3
    with pytest.raises(DifferenceFound) as caught:
        _deploy_and_flip(put, source, blank, offset)
    assert caught.value.offset <= offset < caught.value.offset + caught.value.length
    assert caught.value.length == BLOCK
    assert caught.value.offset % BLOCK == 0


def test_of_several_differences_the_first_is_named(raw: Path, blank: Server, put: Put) -> None:
    first, second = _content_at(raw, 8 * images.MIB), _content_at(raw, 80 * images.MIB)
    with pytest.raises(DifferenceFound) as caught:
        _deploy_and_flip(put, raw, blank, second, first)
    assert caught.value.offset <= first < caught.value.offset + caught.value.length


def test_after_a_difference_the_target_has_no_head_and_the_same_call_writes_it_anew(
    raw: Path, blank: Server, put: Put
) -> None:
    with pytest.raises(DifferenceFound):
        _deploy_and_flip(put, raw, blank, _content_at(raw, 70 * images.MIB))
    with blank.disk.open("rb") as disk:
        assert not disk.read(images.MIB).strip(b"\0")
    assert put(raw, blank.address, verify=True).resumed_bytes == 0


def test_after_a_difference_nothing_is_believed(raw: Path, blank: Server, put: Put) -> None:
    """Not even what is right again: a disk that errs now and then is not one to go on with."""
    flipped = _content_at(raw, 70 * images.MIB)
    with pytest.raises(DifferenceFound):
        _deploy_and_flip(put, raw, blank, flipped)
    _flip(blank.disk, flipped)
    result = put(raw, blank.address, verify=True, overwrite=True)
    assert result.resumed_bytes == 0
    assert images.same(raw, blank.disk, images.SIZE)
