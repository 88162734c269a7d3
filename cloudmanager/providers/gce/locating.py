"""Finds an attached disk's device by what the device says of itself."""

import json
from collections.abc import Collection

from cloudmanager.core.errors import DeviceMismatch, DeviceNotReady
from cloudmanager.core.model import Device
from cloudmanager.providers import _nvme, _scsi
from cloudmanager.providers._block_devices import BlockDevice, BlockDevices
from cloudmanager.providers._waiting import TimedOut, wait_for

OUR_NAMES = "cm-"
"""Prefix of the device names that a plan chooses; the rest is its request id, which cannot be guessed."""
_VENDOR_DATA_OFFSET = 384
"""In the answer to Identify Namespace, where Google puts a JSON document with the device name."""


def locate(devices: BlockDevices, device_name: str, timeout: float) -> Device:
    """The device of the disk that is attached as `device_name`, waiting `timeout` seconds for it.

    Raises DeviceNotReady, or DeviceMismatch when two devices say that they are it.
    """
    try:
        return wait_for(lambda: _ready(devices, device_name), timeout=timeout, interval=0.25, first=0.01)
    except TimedOut:
        raise DeviceNotReady(
            f"The disk is attached as {device_name}, and after {timeout:g} s no device of this machine says that it is "
            f"that disk; it is looked for again."
        ) from None


def find(devices: BlockDevices, device_name: str) -> BlockDevice | None:
    """The device that says that it is `device_name`. Raises DeviceMismatch when there are two."""
    found = [device for device in devices if device_name in names(device)]
    if len(found) > 1:
        shown = " and ".join(str(device.node) for device in found)
        raise DeviceMismatch(f"{shown} both say that they are {device_name}: neither is used.")
    return found[0] if found else None


def present(devices: BlockDevices, device_names: Collection[str]) -> dict[str, Device]:
    """Those of the names of which one device, and no other, says that it is it, now. Every device is read once."""
    found: dict[str, list[BlockDevice]] = {}
    for device in devices:
        for name in names(device).intersection(device_names):
            found.setdefault(name, []).append(device)
    ready = {name: those[0].as_ready_device() for name, those in found.items() if len(those) == 1}
    return {name: device for name, device in ready.items() if device is not None}


def names(device: BlockDevice) -> set[str]:
    """The device names that a disk gives itself; empty for one that is not Google's, or does not say."""
    if _nvme.is_namespace(device):
        return {_nvme_name(device)} - {""}
    is_google = device.text("device/vendor") == "Google" and device.text("device/model") == "PersistentDisk"
    return _scsi.vendor_serials(device) if is_google else set()


def _ready(devices: BlockDevices, device_name: str) -> Device | None:
    device = find(devices, device_name)
    return None if device is None else device.as_ready_device()


def _nvme_name(device: BlockDevice) -> str:
    if not _nvme.model(device).startswith("nvme_card"):
        return ""
    text = _nvme.identify_namespace(device)[_VENDOR_DATA_OFFSET:].partition(b"\0")[0]
    try:
        return str(json.loads(text)["device_name"])
    except (ValueError, KeyError, TypeError):
        return ""
