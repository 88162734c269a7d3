"""Block devices as disks."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from cloudmanager.core.errors import DeviceNotReady, DiskNotFound, DiskReplaced
from cloudmanager.core.exhaustion import raise_exhausted
from cloudmanager.core.incarnation import refuse_replaced
from cloudmanager.core.model import Access, Device, Disk, DiskId
from cloudmanager.providers.local import sysfs
from cloudmanager.providers.local.device_id import device_id, device_incarnation, ids_below, loop_offset
from cloudmanager.providers.local.device_names import is_disk, links_by_id, resolve, stable_name
from cloudmanager.providers.local.holders import Holder, Holders, device_identity, identity_of
from cloudmanager.providers.local.roots import Roots
from cloudmanager.providers.local.settings import LocalSettings
from cloudmanager.providers.local.sysfs import BlockDevice

_LOOP_OFFSET = "loop_offset"
"""The label that says where in its file a loop device begins."""


class DeviceDisks:
    """The disks and partitions that this machine has."""

    def __init__(self, provider: str, settings: LocalSettings, roots: Roots) -> None:
        self._provider = provider
        self._is_on = settings.devices
        self._roots = roots

    def describe(self, disk_id: DiskId) -> Disk:
        return self._disk(disk_id, self._resolve(disk_id), Holders(self._roots))

    def locate(self, disk: Disk, holders: Holders | None = None) -> Device:
        """Raises DiskNotFound, DiskReplaced, DeviceNotReady (the kernel has it, /dev does not)."""
        device = self._resolve(disk.id)
        if device_id(device, self._roots) != disk.canonical_id:
            raise DiskReplaced(f"Another disk is at {disk.id.native} now than the one that was claimed. Ask again.")
        incarnation = device_incarnation(device, self._roots)
        refuse_replaced(disk, incarnation)
        self._refuse_other_part(disk, device)
        node = self._roots.dev / device.node_name
        identity = device_identity(device.number)
        if identity_of(node) != identity:
            raise DeviceNotReady(f"The kernel knows {device.name}, but {node} is not its node. Check udev or devtmpfs.")
        users = self._users(device, holders or Holders(self._roots))
        return Device(
            str(node),
            device.size_bytes,
            identity,
            is_block=True,
            logical_sector_bytes=device.logical_sector_bytes,
            is_stable=not any(user.writes for user in users),
            incarnation=incarnation,
        )

    def _refuse_other_part(self, disk: Disk, device: BlockDevice) -> None:
        """Of its file: a loop device can be told to begin elsewhere while it is open. Raises DiskReplaced."""
        offset = loop_offset(device, self._roots)
        if disk.labels.get(_LOOP_OFFSET, offset) != offset:
            raise DiskReplaced(f"{disk.id} shows another part of its file now than when it was claimed. Ask again.")

    def list(self, after: str, is_wanted: Callable[[str], bool] = bool) -> Iterator[tuple[Disk, str]]:
        """The disks behind the one of that kernel name, of the names that are wanted, each with its kernel name."""
        if not self._is_on:
            return
        holders, links = Holders(self._roots), links_by_id(self._roots)
        for device in sysfs.all_devices(self._roots):
            if is_disk(device) and (not after or sysfs.natural_order(device.name) > sysfs.natural_order(after)):
                disk_id = DiskId(self._provider, stable_name(device, links))
                if is_wanted(disk_id.native):
                    yield self._disk(disk_id, device, holders), device.name

    def _resolve(self, disk_id: DiskId) -> BlockDevice:
        if not self._is_on:
            raise DiskNotFound(
                f"{disk_id.native} is a block device, and those are not exported. "
                f"Set devices = true in [providers.{self._provider}] to change that."
            )
        return resolve(self._roots, disk_id.native)

    def _disk(self, disk_id: DiskId, device: BlockDevice, holders: Holders) -> Disk:
        held_by = tuple(user.name for user in self._users(device, holders))
        return Disk(
            disk_id,
            device_id(device, self._roots),
            device.size_bytes,
            description=_description(device),
            labels=_labels(device, loop_offset(device, self._roots)),
            access=frozenset(Access) - ({Access.READ_WRITE} if held_by or device.is_read_only else set()),
            held_by=held_by,
            backing=ids_below(device, self._roots),
            logical_sector_bytes=device.logical_sector_bytes,
            incarnation=device_incarnation(device, self._roots),
        )

    def _users(self, device: BlockDevice, holders: Holders) -> tuple[Holder, ...]:
        """Those of the device itself, of its partitions, and of the disk that it is a partition of."""
        overlapping = [device, *sysfs.partitions(self._roots, device)]
        disk = sysfs.read(self._roots, device.whole_disk) if device.is_partition else None
        users = [user for each in [*overlapping, *([disk] if disk else [])] for user in _known_users(each, holders)]
        if not users and _is_claimed(self._roots.dev / device.node_name, device.number):
            users.append(Holder("another program, exclusively", writes=True))
        return tuple(dict.fromkeys(users))


def _known_users(device: BlockDevice, holders: Holders) -> list[Holder]:
    above = [Holder(f"device {name}", writes=True) for name in device.holders]
    return [*holders.of(device_identity(device.number)), *above]


def _is_claimed(node: Path, number: int) -> bool:
    """Whether another process has an exclusive hold, as a mount in another container does: open(2) answers EBUSY.

    This process may itself hold the device for an export; that is a claim, which the core knows.
    """
    try:
        os.close(os.open(node, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        raise_exhausted(error)
        return error.errno == errno.EBUSY and not _is_open_here(number)
    return False


def _is_open_here(number: int) -> bool:
    own = Path("/proc/self/fd")
    return any(identity_of(own / descriptor) == device_identity(number) for descriptor in os.listdir(own))  # noqa: PTH208 - names


def _description(device: BlockDevice) -> str:
    maker = " ".join(filter(None, [_words(device.vendor), _words(device.model)]))
    part = f"partition of {device.whole_disk}" if device.is_partition else ""
    read_only = "The kernel has it as read-only." if device.is_read_only else ""
    return ". ".join(filter(None, [maker, part, read_only]))


def _words(text: str) -> str:
    return "" if text.startswith("0x") else " ".join(text.split())


def _labels(device: BlockDevice, offset: str) -> dict[str, str]:
    labels = {
        "kernel_name": device.name,
        "serial": device.serial,
        "world_wide_name": device.world_wide_name,
        "model": _words(device.model),
        "partition_of": device.whole_disk if device.is_partition else "",
        _LOOP_OFFSET: offset,
    }
    return {name: value for name, value in labels.items() if value}
