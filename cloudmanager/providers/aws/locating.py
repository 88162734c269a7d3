"""Finds a volume's device on this machine by what the device says of itself. Links in /dev are never looked at."""

from collections.abc import Collection, Iterator

from cloudmanager.core.errors import DeviceError, DeviceMismatch, DeviceNotReady, DiskNotFound
from cloudmanager.core.model import Device, NotAttached
from cloudmanager.providers import _nvme
from cloudmanager.providers._block_devices import BlockDevice
from cloudmanager.providers._waiting import TimedOut, wait_for
from cloudmanager.providers.aws.device_name import xen_number
from cloudmanager.providers.aws.facts import AttachmentState, Volume, VolumeAttachment
from cloudmanager.providers.aws.machine import Machine
from cloudmanager.providers.aws.machine_view import MachineView
from cloudmanager.providers.aws.resource_id import ResourceId
from cloudmanager.providers.aws.settings import AwsSettings

_PAUSE_SECONDS = 0.2


class Locating:
    """On Nitro, the controller's serial number is the volume's id. On Xen there is only the number of the slot."""

    def __init__(self, view: MachineView, settings: AwsSettings, machine: Machine) -> None:
        self._view = view
        self._settings = settings
        self._machine = machine

    def locate(self, id: ResourceId) -> Device | NotAttached:
        """Asks EC2 only when no NVMe controller has the volume's serial number."""
        device = self._by_serial(id)
        if device is not None:
            return device
        here = self._view.attachment(self._view.volume(id.id))
        if here is None:
            return NotAttached(f"EC2 says that {id.id} is not attached to {self._machine.instance_id}.")
        if here.state is AttachmentState.ATTACHING:
            raise DeviceNotReady(f"EC2 is still attaching {id.id}.")
        return self._appeared(id, here)

    def locate_all(self, ids: Collection[ResourceId]) -> dict[ResourceId, Device | NotAttached]:
        """Asks EC2 once, for this machine's volumes: a serial number does not show whether EC2 has detached it.

        A volume that is missing there is asked for by its id, because lists may lag behind.
        """
        max_age = 0.0 if self._is_xen() else self._settings.look_seconds  # on Xen, a device does not say what it is
        located = self._listed(ids, self._view.volumes(max_age))
        if max_age and any(not isinstance(located.get(id), Device) for id in ids):
            located = self._listed(ids, self._view.volumes())
        return located

    def _listed(
        self, ids: Collection[ResourceId], listed: Collection[Volume]
    ) -> dict[ResourceId, Device | NotAttached]:
        mine = {volume.id: volume for volume in listed}
        located = {id: self._seen(id, mine.get(id.id)) for id in ids}
        return {id: seen for id, seen in located.items() if seen is not None}

    def _seen(self, id: ResourceId, listed: Volume | None) -> Device | NotAttached | None:
        """None: neither is certain."""
        try:
            here = self._view.attachment(listed or self._view.volume(id.id))
        except DiskNotFound:
            here = None
        if here is None:
            return NotAttached(f"EC2 says that {id.id} is not attached to {self._machine.instance_id}.")
        if here.state is not AttachmentState.ATTACHED:
            return None
        try:
            return self._device_at(here) if self._is_xen() else self._by_serial(id)
        except DeviceError:
            return None

    def _device_at(self, here: VolumeAttachment) -> Device | None:
        disk = self._disk_at(here)
        return disk.as_ready_device() if disk else None

    def _appeared(self, id: ResourceId, here: VolumeAttachment) -> Device:
        def look() -> Device | None:
            return self._by_slot(id, here) if self._is_xen() else self._by_serial(id)

        try:
            return wait_for(look, timeout=self._settings.device_timeout_seconds, interval=_PAUSE_SECONDS)
        except TimedOut:
            raise DeviceNotReady(
                f"EC2 says that {id.id} is attached as {here.device}, and this machine shows no ready device for it "
                f"after {self._settings.device_timeout_seconds:g} s."
            ) from None

    def _by_serial(self, id: ResourceId) -> Device | None:
        serial = id.id.replace("-", "")
        found = [disk for disk in self._ebs_namespaces() if _nvme.serial(disk) == serial]
        if len(found) > 1:
            raise DeviceMismatch(f"{', '.join(disk.name for disk in found)} all say that they are {id.id}.")
        return found[0].as_ready_device() if found else None

    def _ebs_namespaces(self) -> Iterator[BlockDevice]:
        for disk in self._settings.block_devices:
            if _nvme.is_namespace(disk) and disk.text("device/device/vendor") == self._settings.pci_vendor:
                yield disk

    def _is_xen(self) -> bool:
        return any(disk.parent().name.startswith("vbd-") for disk in self._settings.block_devices)

    def _by_slot(self, id: ResourceId, here: VolumeAttachment) -> Device | None:
        """Certain only while no one else attaches or detaches, so this asks EC2 again once it has found the device."""
        if xen_number(here.device) is None:
            raise DeviceMismatch(
                f"{id.id} is attached as {here.device}, and on a Xen instance no device can be found by "
                "that name with certainty: detach it, and let cloudmanager attach it."
            )
        disk = self._disk_at(here)
        if disk is None:
            return None
        volume = self._view.volume(id.id)
        if self._view.attachment(volume) != here:
            raise DeviceNotReady(f"The attachment of {id.id} changes at this moment.")
        return disk.as_ready_device(volume.size_bytes)

    def _disk_at(self, here: VolumeAttachment) -> BlockDevice | None:
        """Of a Xen instance, by the number of the slot."""
        name = f"vbd-{xen_number(here.device)}"
        return next((disk for disk in self._settings.block_devices if disk.parent().name == name), None)
