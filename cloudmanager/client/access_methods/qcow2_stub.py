"""A small qcow2 image that refers to the address: every program that reads through QEMU can follow it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloudmanager.client.access_methods import tls
from cloudmanager.client.access_methods.command import find, run
from cloudmanager.client.access_methods.endpoint import ProgramEndpoint
from cloudmanager.client.access_methods.errors import AccessFailed, NotPossibleHere
from cloudmanager.client.access_methods.record import Record, recorded
from cloudmanager.client.access_methods.steps import MadeFile
from cloudmanager.client.address import NbdAddress


@dataclass(frozen=True)
class Stub:
    """It can be read as long as the export exists, from any machine that can reach the address."""

    path: Path
    options: tuple[str, ...] = ()
    """What a program of QEMU needs on its command line to follow it. None are needed without TLS: an image cannot
    carry a key or certificates, so with TLS it names what the program must be given."""


def obstacle(address: NbdAddress) -> str | None:
    """Why it cannot be made, or not be read by a program without extra options. None: it can."""
    if find("qemu-img") is None:
        return "qemu-img is not installed (the package qemu-utils)"
    if address.is_writable:
        return "what is written to a stub never reaches the disk; export it read-only, or use the file"
    if ProgramEndpoint.of(address).is_tls:
        return "an image cannot carry the key or certificates of TLS; use the file, or give the program stub.options"
    return None


@contextmanager
def stub(address: NbdAddress, path: Path | str) -> Iterator[Stub]:
    """Makes the image at `path`, where nothing may be yet, and removes it at the end.

    What a program writes to it stays in it. Raises NotPossibleHere for an address that is writable, AccessFailed with
    the message of qemu-img: it connects, so an address that does not answer fails here.
    """
    if address.is_writable:
        raise NotPossibleHere(str(obstacle(address)))
    with recorded() as record:
        made = Path(path).absolute()
        _create(made)
        found = made.stat()
        record.note(MadeFile(str(made), found.st_dev, found.st_ino))
        yield _fill(record, made, address)


def _create(path: Path) -> None:
    """An inode of our own: only that will be removed. A crash before it is noted leaves an empty file."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    except OSError as error:
        raise AccessFailed(f"the stub cannot be made at {path}: {error.strerror}; choose another path") from error


def _fill(record: Record, path: Path, address: NbdAddress) -> Stub:
    endpoint = ProgramEndpoint.of(address)
    options: tuple[str, ...] = ()
    reference = address.uri
    if endpoint.is_tls:  # an address has no place for the name of a key in QEMU
        options = tls.tls_options(address, record.directory)
        reference = "json:" + json.dumps({"driver": "raw", "file": endpoint.as_block_device(tls.OBJECT)})
    run("qemu-img", "create", "-q", *options, "-f", "qcow2", "-F", "raw", "-b", reference, path)
    return Stub(path, options)
