"""Whatever happens to an image's bytes, the answer is an image or an ImageProblem."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudmanager.images import ImageProblem, UnreadableImage, inspect
from tests.images.udif import udif

SAMPLES = [
    *("qcow2", "qcow2-v2", "qcow2-extended-l2", "vmdk", "vmdk-stream"),
    *("vdi", "vpc", "vpc-fixed", "vhdx", "parallels"),
]
_STARTS = st.one_of(st.integers(0, 600), st.integers(0, 4 << 20), st.sampled_from([-512, -1536, 65536, 196608, 262144]))
_CHANGES = st.lists(st.tuples(_STARTS, st.binary(min_size=1, max_size=8)), min_size=1, max_size=6)


def _survives(data: bytes, changes: list[tuple[int, bytes]], cut: float) -> None:
    damaged = bytearray(data)
    for start, value in changes:
        at = start % len(damaged)
        damaged[at : at + len(value)] = value
    with suppress(ImageProblem):
        image = inspect(io.BytesIO(damaged[: int(len(damaged) * cut)]), allow_backing=True)
        assert image.size_bytes > 0


@pytest.mark.parametrize("flavour", SAMPLES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=_CHANGES, cut=st.sampled_from([1.0, 1.0, 0.999, 0.5]))
def test_damaged_images_never_crash_the_inspection(
    flavour: str, changes: list[tuple[int, bytes]], cut: float, make: Callable[[str], Path]
) -> None:
    _survives(make(flavour).read_bytes(), changes, cut)


@settings(max_examples=100, deadline=None)
@given(changes=_CHANGES)
def test_a_damaged_dmg_never_crashes_the_inspection(changes: list[tuple[int, bytes]]) -> None:
    _survives(udif(bytes(65536)), changes, 1.0)


@settings(max_examples=200, deadline=None)
@given(
    magic=st.sampled_from([b"QFI\xfb", b"KDMV", b"conectix", b"vhdxfile", b"WithoutFreeSpace", b"WithouFreSpacExt"]),
    rest=st.binary(max_size=4096),
)
def test_a_magic_with_noise_behind_it_is_never_raw(magic: bytes, rest: bytes) -> None:
    with suppress(ImageProblem):
        assert inspect(io.BytesIO(magic + rest), allow_backing=True).format != "raw"


class _Failing(io.BytesIO):
    def read(self, _size: int | None = -1) -> bytes:
        raise OSError(5, "Input/output error")


def test_a_disk_that_cannot_be_read_is_no_damaged_image() -> None:
    with pytest.raises(UnreadableImage, match="Input/output error"):
        inspect(_Failing(b"x" * 4096))
