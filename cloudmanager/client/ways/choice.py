"""Which way this machine allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cloudmanager.client.address import NbdAddress
from cloudmanager.client.ways import fuse_file, kernel_device, qcow2_stub
from cloudmanager.client.ways.errors import NotPossibleHere
from cloudmanager.client.ways.record import recorded


class Way(StrEnum):
    """From the fastest, which needs the most, to the one that needs nothing."""

    DEVICE = "device"
    FILE = "file"
    STUB = "stub"


OBSTACLES: Mapping[Way, Callable[[NbdAddress], str | None]] = {
    Way.DEVICE: kernel_device.obstacle,
    Way.FILE: fuse_file.obstacle,
    Way.STUB: qcow2_stub.obstacle,
}


@dataclass(frozen=True)
class Choice:
    """The best way, and why the better ones do not go."""

    way: Way
    why_not: Mapping[Way, str]
    """A sentence for each way that is not allowed here, also those that are not as good."""


def choose(address: NbdAddress, among: Iterable[Way] = Way) -> Choice:
    """Nothing is tried, so what is chosen may yet fail.

    Raises NotPossibleHere with every reason when no way is left.
    """
    found = {way: OBSTACLES[way](address) for way in among}
    why_not = {way: reason for way, reason in found.items() if reason is not None}
    allowed = [way for way in Way if way in found and way not in why_not]
    if not allowed:
        reasons = "; ".join(f"{way}: {reason}" for way, reason in why_not.items())
        raise NotPossibleHere(f"this machine allows no way to the disk ({reasons})", reasons=why_not)
    return Choice(allowed[0], why_not)


@contextmanager
def open_disk(address: NbdAddress, way: Way | None = None) -> Iterator[Path]:
    """A path that a program can read the disk at: the best way that goes, or the one that is asked for.

    The path of a stub, in a private directory, is for programs that read qcow2. Raises what the way raises.
    """
    match way or choose(address).way:
        case Way.DEVICE:
            with kernel_device.device(address) as device:
                yield device.path
        case Way.FILE:
            with fuse_file.file(address) as file:
                yield file.path
        case Way.STUB:
            with recorded() as record, qcow2_stub.stub(address, record.directory / "disk.qcow2") as stub:
                yield stub.path
