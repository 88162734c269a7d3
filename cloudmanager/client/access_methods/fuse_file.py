"""An ordinary file with the bytes of the disk: nbdfuse, of the libnbd project."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from cloudmanager.client.access_methods import tls
from cloudmanager.client.access_methods.command import TIMEOUT_SECONDS, find
from cloudmanager.client.access_methods.endpoint import ProgramEndpoint
from cloudmanager.client.access_methods.errors import AccessFailed, AccessLost
from cloudmanager.client.access_methods.record import Record, recorded
from cloudmanager.client.access_methods.steps import END_SECONDS, FuseFile, needs_fusermount
from cloudmanager.client.address import NbdAddress
from cloudmanager.confined.qemu_nbd import without_graphs

FILE_NAME = "disk.raw"
CONNECTIONS = 3
"""nbdfuse leaves one of several idle (libnbd 1.14, fuse/operations.c, next_thread), and two read faster than one. An
export serves 32 in all, unless its service is set up otherwise; where others have them, one does."""
READY_SECONDS = 60.0
_SEVERAL_SECONDS = 2.0
"""How long several connections are waited for."""
OPTIONS = ("-o", "kernel_cache")
"""What was read is remembered from one opening of the file to the next; else each makes all its readers start anew."""
READ_AHEAD_BYTES = 2**20
"""So that one reader keeps several requests under way. The kernel would read 128 KiB ahead, in half of the speed."""
_FUSE = Path("/dev/fuse")
_LOST = re.compile(r"not connected|invalid state: (?:CLOSED|DEAD)|Connection reset")
"""How libnbd complains of it."""


@dataclass(frozen=True)
class DiskFile:
    """A file that is read, sought and, if it is writable, written like any other."""

    path: Path
    size_bytes: int
    is_writable: bool
    _server: subprocess.Popen[bytes] = field(repr=False)
    _log: Path = field(repr=False)

    @property
    def is_lost(self) -> bool:
        """Whether a request failed because the connection had ended, or nbdfuse has ended itself.

        Every read then fails: nbdfuse does not connect again, and may say ENOTCONN, EINVAL or EIO.
        """
        return self._server.poll() is not None or _LOST.search(self._log.read_text(errors="replace")) is not None


def obstacle(address: NbdAddress) -> str | None:
    """Why this machine cannot do it. None: it can."""
    if find("nbdfuse") is None:
        return "nbdfuse is not installed (the package libnbd-bin)"
    endpoint = ProgramEndpoint.of(address)
    if endpoint.is_tls and not _goes_through_nbdkit(endpoint) and find("qemu-nbd") is None:
        return "qemu-nbd is not installed (the package qemu-utils), which nbdfuse needs for a TLS address"
    if not os.access(_FUSE, os.R_OK | os.W_OK):
        return "/dev/fuse is missing or not open to this user (containers: --device /dev/fuse --cap-add SYS_ADMIN)"
    if needs_fusermount():
        return "fusermount3 is not installed (the package fuse3), and only root can do without it"
    return None


@contextmanager
def file(
    address: NbdAddress,
    *,
    read_only: bool = False,
    connections: int = CONNECTIONS,
    ready_seconds: float = READY_SECONDS,
) -> Iterator[DiskFile]:
    """The disk as a file in a private directory, writable if the export is and `read_only` is not asked for.

    At the end what was written is with the server, and the file is gone. Raises AccessFailed with what nbdfuse said,
    also if it is not ready in time; AccessLost at the end if the connection was lost meanwhile.
    """
    with ExitStack() as after, recorded() as record:
        disk = _serve(record, address, address.is_writable and not read_only, connections, ready_seconds)
        after.callback(_reap, disk._server)
        yield disk
        if disk.is_lost:
            raise AccessLost(f"the connection ended while {disk.path} was in use: {_said(record)}")
        _flush(disk)


def _serve(record: Record, address: NbdAddress, is_writable: bool, connections: int, ready_seconds: float) -> DiskFile:
    point = record.directory / "nbd"
    point.mkdir(mode=0o700)
    record.note(FuseFile(str(point)))
    path = point / FILE_NAME
    access = [] if is_writable else ["-r"]
    arguments = [*OPTIONS, *access, str(path), *_source(record, address, is_writable)]
    server = _start_with_several(
        record, arguments, 1 if ProgramEndpoint.of(address).is_tls else connections, ready_seconds
    )
    read_far_ahead(path)
    return DiskFile(path, path.stat().st_size, is_writable, server, _log(record))


def read_far_ahead(path: Path) -> None:
    """Root may set it, where /sys can be written (in most containers it cannot be); else the kernel's choice stays."""
    number = path.stat().st_dev
    setting = Path(f"/sys/class/bdi/{os.major(number)}:{os.minor(number)}/read_ahead_kb")
    with suppress(OSError):
        setting.write_text(str(READ_AHEAD_BYTES // 1024))


def _source(record: Record, address: NbdAddress, is_writable: bool) -> list[str]:
    """Where nbdfuse connects to. It takes neither key nor certificates, so with TLS it starts a program that does.

    nbdkit passes errors on; qemu-nbd 7.2 hangs up on nbdfuse where the disk has a bad sector.
    """
    endpoint = ProgramEndpoint.of(address)
    if not endpoint.is_tls:
        return [address.uri]
    if _goes_through_nbdkit(endpoint):
        server = [*endpoint.as_nbdkit_parameters(), *tls.nbdkit_parameters(address, record.directory)]
        return ["--command", find("nbdkit") or "nbdkit", "-s", *([] if is_writable else ["-r"]), "nbd", *server]
    block_device = {"driver": "raw", "file": endpoint.as_block_device(tls.OBJECT)}
    options = tls.tls_options(address, record.directory)
    access = [] if is_writable else ["--read-only"]
    return ["[", find("qemu-nbd") or "qemu-nbd", *access, *options, f"json:{json.dumps(block_device)}", "]"]


def _goes_through_nbdkit(endpoint: ProgramEndpoint) -> bool:
    """Whether it is installed and can connect: libnbd, which its plugin uses, cannot use TLS with an IPv6 address."""
    nbdkit = find("nbdkit")
    return nbdkit is not None and not endpoint.is_ipv6_literal and _has_client(nbdkit)


@cache
def _has_client(nbdkit: str) -> bool:
    """Distributions may have the plugin in a package of its own."""
    command = [nbdkit, "nbd", "--dump-plugin"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _start_with_several(
    record: Record, arguments: list[str], connections: int, ready_seconds: float
) -> subprocess.Popen[bytes]:
    """With one connection if so many are not available: a server lets further clients wait."""
    several_seconds = min(_SEVERAL_SECONDS, ready_seconds / 2) if connections > 1 else 0.0
    server = _start(record, ["-C", str(connections), *arguments], several_seconds) if several_seconds else None
    server = server or _start(record, ["-C", "1", *arguments], ready_seconds - several_seconds)
    if server is None:
        raise AccessFailed(
            f"the server did not answer nbdfuse within {ready_seconds:g} s; others may have all its connections"
        )
    return server


def _start(record: Record, arguments: list[str], ready_seconds: float) -> subprocess.Popen[bytes] | None:
    """Returns when it serves, which it signals by writing its pid; None if it does not in time."""
    says_ready, ready = os.pipe()
    try:
        with _log(record).open("wb") as log:
            server = subprocess.Popen(
                [find("nbdfuse") or "nbdfuse", "-P", f"/dev/fd/{ready}", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[ready],
                start_new_session=True,  # Ctrl-C ends the worker, which then undoes this in order
                cwd=record.directory,
            )
        os.close(ready)
        ready = -1
        return server if _is_ready(says_ready, server, record, ready_seconds) else None
    except FileNotFoundError as error:
        raise AccessFailed("nbdfuse is not installed (the package libnbd-bin)") from error
    finally:
        os.close(says_ready)
        if ready >= 0:
            os.close(ready)


def _is_ready(says_ready: int, server: subprocess.Popen[bytes], record: Record, seconds: float) -> bool:
    """One that is not is ended. Raises AccessFailed if it has ended itself."""
    if not select.select([says_ready], [], [], seconds)[0]:
        server.kill()
        server.wait()
        return False
    if not os.read(says_ready, 32):
        server.wait()
        raise AccessFailed(f"nbdfuse: {_said(record)}")
    return True


def _flush(disk: DiskFile) -> None:
    """Raises OSError: what was written may not be on the disk."""
    if disk.is_writable:
        descriptor = os.open(disk.path, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reap(server: subprocess.Popen[bytes]) -> None:
    """Undoing has ended it, unless that failed, which is an error of its own."""
    with suppress(subprocess.TimeoutExpired):
        server.wait(END_SECONDS)


def _log(record: Record) -> Path:
    return record.directory / "nbdfuse.log"


def _said(record: Record) -> str:
    message = without_graphs(_log(record).read_text(errors="replace").strip(), "the disk")
    return message or "it printed no message"
