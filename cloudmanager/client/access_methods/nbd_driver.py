"""The kernel's NBD driver: connections are handed to a free /dev/nbdN, which then is the disk.

This uses the driver's ioctls, not its netlink family. The family is found in the initial network namespace only, so
not in a container, and what it connects stays connected when the worker is killed. The ioctl that serves a device
blocks the thread that calls it, and ends with it, however it ends: a crash leaves nothing connected. It is without a
race, too: the driver gives a device to the thread whose first socket it takes, and answers EBUSY to every other
(drivers/block/nbd.c, nbd_add_socket).
"""

import errno
import fcntl
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cloudmanager.client.access_methods import nbd_queues
from cloudmanager.client.access_methods.errors import AccessFailed
from cloudmanager.confined import kernel
from cloudmanager.linux import block
from cloudmanager.transfer.negotiation import FLAG_READ_ONLY

_SET_SOCK = 0xAB00
_SET_BLKSIZE = 0xAB01
_DO_IT = 0xAB03
_CLEAR_SOCK = 0xAB04
_SET_SIZE_BLOCKS = 0xAB07
_DISCONNECT = 0xAB08
_SET_TIMEOUT = 0xAB09
_SET_FLAGS = 0xAB0A

_LOOK_SECONDS = 0.01
_CLEAR_SECONDS = 2.0


@dataclass(frozen=True)
class ConnectedDevice:
    """The parameters of a device."""

    connections: Sequence[socket.socket]
    """Each negotiated."""
    size_bytes: int
    logical_sector_bytes: int
    """What the disk's own partition table counts in; the driver's default of 1024 would move it."""
    flags: int
    request_timeout_seconds: int
    read_ahead_bytes: int

    @property
    def sectors(self) -> int:
        """What is behind the last whole one is not seen."""
        return self.size_bytes // self.logical_sector_bytes


class ConnectionUnread(AccessFailed):
    """The kernel does not listen on one of the connections; with new ones it may."""


class Nbd:
    """A connected device, served by a thread of this process."""

    def __init__(self, attachment: ConnectedDevice, ready_seconds: float) -> None:
        """Returns when the device can be read, with its partitions. Raises AccessFailed, ConnectionUnread."""
        self._attachment = attachment
        self._claimed: Future[tuple[Path, int]] = Future()
        self._is_over = threading.Event()
        self._may_end = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="nbd", daemon=True)
        self._thread.start()
        self.path, self._keeper = self._claimed.result()
        try:
            deadline = time.monotonic() + ready_seconds
            self._await_size(deadline)
            self._await_every_connection(deadline)
            self._prepare()
        except BaseException:
            self.disconnect()
            raise

    @property
    def is_lost(self) -> bool:
        """Whether the connections have ended without our doing. Reads then fail with EIO."""
        return self._is_over.is_set() and not self._may_end.is_set()

    def disconnect(self, timeout_seconds: float = 20.0) -> None:
        """Sends what was written first. Raises AccessFailed if the driver does not end; OSError if a write failed."""
        if not self._thread.is_alive():
            return
        descriptor = os.dup(self._keeper)  # to open the device could wait for an answer of the server
        try:
            if not self.is_lost and not self._attachment.flags & FLAG_READ_ONLY:
                os.fsync(descriptor)
        finally:
            self._may_end.set()
            with suppress(OSError):  # not connected any more
                fcntl.ioctl(descriptor, _DISCONNECT)
            os.close(descriptor)
            self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            raise AccessFailed(f"the kernel has not disconnected {self.path} within {timeout_seconds:g} s")

    def partitions(self) -> dict[int, Path]:
        """First byte → device, as the kernel found them."""
        found = {}
        for partition in _partitions(self.path):
            found[int((partition / "start").read_text()) * block.SECTOR_BYTES] = Path("/dev", partition.name)
        return dict(sorted(found.items()))

    def _serve(self) -> None:
        """Runs in the thread. No signal may reach it: one would end the ioctl, and with it the connections."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            descriptor, path = self._claim()
        except (AccessFailed, OSError) as error:
            self._claimed.set_exception(error)
            return
        try:
            self._configure(descriptor)
            keeper = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            self._claimed.set_exception(AccessFailed(f"{path}: {error.strerror}"))
        else:
            self._claimed.set_result((path, keeper))
            self._run(descriptor, keeper)
        finally:
            _clear(descriptor, path)

    def _run(self, descriptor: int, keeper: int) -> None:
        """Until `disconnect`, also when the connections end before.

        A program that opens a lost device again must get errors: not an empty device, nor the disk of another worker.
        The device keeps its size as long as somebody else has it open: the keeper.
        """
        try:
            with suppress(OSError):  # the connections ended otherwise than by our disconnect
                fcntl.ioctl(descriptor, _DO_IT)
            self._is_over.set()
            self._may_end.wait()
        finally:
            os.close(keeper)

    def _claim(self) -> tuple[int, Path]:
        """The first device that takes our first connection."""
        devices = _devices()
        for path in filter(_seems_free, devices):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise AccessFailed(f"{path}: {error.strerror}; a container needs the devices of its host") from error
            try:
                fcntl.ioctl(descriptor, _SET_SOCK, self._attachment.connections[0].fileno())
            except OSError as error:
                os.close(descriptor)
                if error.errno != errno.EBUSY:  # another thread was faster
                    raise AccessFailed(f"{path}: {error.strerror}") from error
            else:
                return descriptor, path
        raise AccessFailed(f"all {len(devices)} NBD devices are in use; load the module with a larger nbds_max")

    def _configure(self, descriptor: int) -> None:
        wanted = self._attachment
        for connection in wanted.connections[1:]:
            fcntl.ioctl(descriptor, _SET_SOCK, connection.fileno())
        fcntl.ioctl(descriptor, _SET_BLKSIZE, wanted.logical_sector_bytes)
        fcntl.ioctl(descriptor, _SET_SIZE_BLOCKS, wanted.sectors)
        fcntl.ioctl(descriptor, _SET_FLAGS, wanted.flags)
        fcntl.ioctl(descriptor, _SET_TIMEOUT, wanted.request_timeout_seconds)

    def _await_size(self, deadline: float) -> None:
        """The driver announces a connected device only to udev, whose events do not reach a container."""
        shown = Path("/sys/block", self.path.name)
        units = self._attachment.sectors * self._attachment.logical_sector_bytes // block.SECTOR_BYTES
        while not ((shown / "pid").exists() and int((shown / "size").read_text()) == units):
            if self._is_over.is_set() or time.monotonic() > deadline:
                raise AccessFailed(f"the kernel did not connect {self.path}; its log (dmesg) says why")
            time.sleep(_LOOK_SECONDS)

    def _await_every_connection(self, deadline: float) -> None:
        """Checks before anybody reads from the device and waits for a connection that is not served."""
        if not nbd_queues.are_served(self._keeper, self.path, deadline - time.monotonic()):
            raise ConnectionUnread(f"the kernel does not listen on every connection of {self.path}")

    def _prepare(self) -> None:
        """Read-ahead, and the partitions: the kernel looks for them only when asked."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, block.BLKRASET, self._attachment.read_ahead_bytes // block.SECTOR_BYTES)
            with suppress(OSError):  # busy: somebody looks at the new device, which made the kernel look too
                block.reread_partitions(descriptor)
        finally:
            os.close(descriptor)


def obstacle() -> str | None:
    """Why this process cannot use the driver. None: it can."""
    if not _devices():
        return "the kernel has no NBD devices (`modprobe nbd` on the host)"
    if not any(map(os.path.exists, _devices())):
        return "the NBD devices of the kernel are not in /dev (a container needs those of its host)"
    if not _may_administer():
        return "it needs the capability CAP_SYS_ADMIN"
    return None


def _devices() -> list[Path]:
    """The last one first: openrelik-worker-common begins at /dev/nbd0, and fails where it finds a device in use."""
    names = [entry.name for entry in Path("/sys/block").glob("nbd*")]
    numbers = sorted((int(name.removeprefix("nbd")) for name in names), reverse=True)
    return [Path(f"/dev/nbd{number}") for number in numbers]


def _seems_free(path: Path) -> bool:
    """A device in use would refuse as well, but complain in the kernel's log."""
    return not Path("/sys/block", path.name, "pid").exists() and path.exists()


def _may_administer() -> bool:
    return bool(kernel.effective_capabilities() >> kernel.CAP_SYS_ADMIN & 1)


def _clear(descriptor: int, path: Path) -> None:
    """Gives the device back, without size and partitions. While udev looks at it the kernel keeps those: ask again.

    Until the descriptor is closed no other thread can have the device.
    """
    deadline = time.monotonic() + _CLEAR_SECONDS
    try:
        while True:
            with suppress(OSError):  # busy
                fcntl.ioctl(descriptor, _CLEAR_SOCK)
                block.reread_partitions(descriptor)
            if _is_empty(path) or time.monotonic() > deadline:
                return
            time.sleep(_LOOK_SECONDS)
    finally:
        os.close(descriptor)


def _is_empty(path: Path) -> bool:
    return int(Path("/sys/block", path.name, "size").read_text()) == 0 and not any(_partitions(path))


def _partitions(path: Path) -> Iterator[Path]:
    """Where sysfs describes them."""
    return Path("/sys/block", path.name).glob(f"{path.name}p*")
