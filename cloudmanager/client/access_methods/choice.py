"""Chooses the access method that this machine allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloudmanager.client.access_methods import fuse_file, kernel_device, qcow2_stub
from cloudmanager.client.access_methods.errors import AccessMethod, NotPossibleHere
from cloudmanager.client.access_methods.record import recorded
from cloudmanager.client.address import NbdAddress

OBSTACLES: Mapping[AccessMethod, Callable[[NbdAddress], str | None]] = {
    AccessMethod.DEVICE: kernel_device.obstacle,
    AccessMethod.FILE: fuse_file.obstacle,
    AccessMethod.STUB: qcow2_stub.obstacle,
}


@dataclass(frozen=True)
class Choice:
    """The best access method, and why better ones cannot be used."""

    method: AccessMethod
    why_not: Mapping[AccessMethod, str]
    """A sentence for each access method that cannot be used here, also for worse ones."""


def choose(address: NbdAddress, among: Iterable[AccessMethod] = AccessMethod) -> Choice:
    """Nothing is tried, so what is chosen may yet fail.

    Raises NotPossibleHere with every reason when none can be used.
    """
    found = {method: OBSTACLES[method](address) for method in among}
    why_not = {method: reason for method, reason in found.items() if reason is not None}
    allowed = [method for method in AccessMethod if method in found and method not in why_not]
    if not allowed:
        reasons = "; ".join(f"{method}: {reason}" for method, reason in why_not.items())
        raise NotPossibleHere(f"this machine allows no way to the disk ({reasons})", reasons=why_not)
    return Choice(allowed[0], why_not)


@contextmanager
def open_disk(address: NbdAddress, method: AccessMethod | None = None) -> Iterator[Path]:
    """A path at which a program can read the disk: by the best access method that works, or by `method`.

    The path of a stub, in a private directory, is for programs that read qcow2. Raises what the access method raises.
    """
    match method or choose(address).method:
        case AccessMethod.DEVICE:
            with kernel_device.device(address) as device:
                yield device.path
        case AccessMethod.FILE:
            with fuse_file.file(address) as file:
                yield file.path
        case AccessMethod.STUB:
            with recorded() as record, qcow2_stub.stub(address, record.directory / "disk.qcow2") as stub:
                yield stub.path
