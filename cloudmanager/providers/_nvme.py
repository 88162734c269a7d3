"""What an NVMe namespace says of itself: attributes in sysfs, and the controller's answer to Identify."""

import ctypes
import fcntl
import os

from cloudmanager.core.exhaustion import raise_exhausted
from cloudmanager.providers._block_devices import BlockDevice

_IDENTIFY = 0x06
_IDENTIFY_BYTES = 4096
_CNS_NAMESPACE = 0x00
_CNS_CONTROLLER = 0x01
_IOCTL_ADMIN_COMMAND = 0xC0484E41  # _IOWR('N', 0x41, struct nvme_admin_cmd), linux/nvme_ioctl.h


class _AdminCommand(ctypes.Structure):
    """struct nvme_admin_cmd."""

    _fields_ = (
        ("opcode", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("reserved", ctypes.c_uint16),
        ("nsid", ctypes.c_uint32),
        ("cdw2", ctypes.c_uint32),
        ("cdw3", ctypes.c_uint32),
        ("metadata", ctypes.c_uint64),
        ("address", ctypes.c_uint64),
        ("metadata_length", ctypes.c_uint32),
        ("data_length", ctypes.c_uint32),
        ("cdw10", ctypes.c_uint32),
        ("cdw11", ctypes.c_uint32),
        ("cdw12", ctypes.c_uint32),
        ("cdw13", ctypes.c_uint32),
        ("cdw14", ctypes.c_uint32),
        ("cdw15", ctypes.c_uint32),
        ("timeout_ms", ctypes.c_uint32),
        ("result", ctypes.c_uint32),
    )


def is_namespace(disk: BlockDevice) -> bool:
    return disk.name.startswith("nvme") and nsid(disk) is not None


def nsid(disk: BlockDevice) -> int | None:
    """The namespace id, which the kernel's name does not contain."""
    number = disk.text("nsid")
    return int(number) if number.isdecimal() else None


def model(disk: BlockDevice) -> str:
    return disk.text("device/model")


def serial(disk: BlockDevice) -> str:
    """Of the controller."""
    return disk.text("device/serial")


def identify_namespace(disk: BlockDevice) -> bytes:
    """4096 bytes; empty when the controller cannot be asked.

    A /sys that is not the kernel's (an emulated guest, whose disks are loop devices) has the answer in a file beside
    the attributes; the kernel never has such a file.
    """
    return disk.content("identify_namespace") or _identify(disk, nsid(disk) or 0, _CNS_NAMESPACE)


def identify_controller(disk: BlockDevice) -> bytes:
    """As identify_namespace, of the namespace's controller."""
    return disk.content("device/identify_controller") or _identify(disk, 0, _CNS_CONTROLLER)


def _identify(disk: BlockDevice, namespace: int, structure: int) -> bytes:
    buffer = ctypes.create_string_buffer(_IDENTIFY_BYTES)
    command = _AdminCommand(
        opcode=_IDENTIFY,
        nsid=namespace,
        address=ctypes.addressof(buffer),
        data_length=_IDENTIFY_BYTES,
        cdw10=structure,
        timeout_ms=2000,
    )
    try:
        descriptor = os.open(disk.node, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise_exhausted(error)
        return b""
    try:
        status = fcntl.ioctl(descriptor, _IOCTL_ADMIN_COMMAND, command)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
    return buffer.raw if status == 0 else b""
