"""The state machine of EC2's volumes, attachments and snapshots, with real bytes and real devices behind it."""

import copy
import errno
import os
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path

from cloudmanager.testing.cloud import backing
from cloudmanager.testing.cloud.ec2 import errors
from cloudmanager.testing.cloud.ec2.devices import hardware, is_device_name, kernel_name, links
from cloudmanager.testing.cloud.ec2.instance_types import Hypervisor
from cloudmanager.testing.cloud.ec2.state import (
    GIB,
    Attachment,
    AttachmentState,
    Instance,
    InstanceState,
    Scope,
    Snapshot,
    SnapshotState,
    State,
    Volume,
    VolumeState,
    now,
)
from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.cloud.guest import Guest
from cloudmanager.testing.cloud.timeline import Action, Timeline

_CREATE_SECONDS = 1.0
_ATTACH_SECONDS = 2.0
_DETACH_SECONDS = 2.0
_DELETE_SECONDS = 1.0
_SNAPSHOT_SECONDS = 5.0
_BUSY_SECONDS = 0.2
"""How often a held device is looked at again."""
_MULTI_ATTACH_INSTANCES = 16


class Lifecycle:
    """What happens to volumes, at once and later. Its callers hold the lock."""

    def __init__(
        self, directory: Path, state: State, guests: Mapping[str, Guest], timeline: Timeline, lock: threading.RLock
    ) -> None:
        """`guests` by the name of their instance."""
        self._directory = directory
        self._state = state
        self._guests = guests
        self._timeline = timeline
        self._lock = lock

    def make_volume(
        self,
        scope: Scope,
        zone: str,
        size_gib: int,
        type_name: str,
        *,
        tags: Mapping[str, str],
        source: Path | None = None,
        snapshot_id: str = "",
        iops: int | None = None,
        is_encrypted: bool = False,
        is_multi_attach: bool = False,
    ) -> Volume:
        """A volume in state `creating`: zeros, or a copy of `source` that is grown to the volume's size."""
        volume = Volume(
            id=new_id("vol"),
            scope=scope,
            zone=zone,
            size_gib=size_gib,
            type=type_name,
            backing=self._directory / "disks" / secrets.token_hex(8),
            created=now(),
            tags=dict(tags),
            iops=iops,
            snapshot_id=snapshot_id,
            is_encrypted=is_encrypted,
            is_multi_attach=is_multi_attach,
        )
        if source is None:
            backing.make(volume.backing, size_gib * GIB)
        else:
            backing.copy(source, volume.backing, size_gib * GIB)
        self._state.volumes[volume.id] = volume
        return volume

    def finish_later(self, volume: Volume, fault: Fault | None) -> None:
        """A created volume becomes available, or `error`, in its time."""

        def finish() -> None:
            volume.state = VolumeState.ERROR if _is(fault, Effect.FAIL) else VolumeState.AVAILABLE

        self._later(_CREATE_SECONDS, fault, finish)

    def attach(
        self, volume: Volume, instance: Instance, device: str, fault: Fault | None, *, card: int = 0
    ) -> Attachment:
        """Answers `attaching`; attached, with the device in the guest, when the time has come."""
        self.check_attach(volume, instance, device, card)
        if _is(fault, Effect.LIE):
            return Attachment(volume.id, instance.id, device, AttachmentState.ATTACHING, now(), card=card)
        attachment = self.join(volume, instance, device, card)
        answer = copy.copy(attachment)
        self._later(_ATTACH_SECONDS, fault, lambda: self.finish_attach(attachment, fault))
        return answer

    def detach(self, attachment: Attachment, fault: Fault | None, *, force: bool = False) -> Attachment:
        """Answers `detaching`; gone when the time has come, or `busy` for as long as the guest holds the device."""
        answer = copy.copy(attachment)
        answer.state = AttachmentState.DETACHING
        if not _is(fault, Effect.LIE):
            attachment.state = AttachmentState.DETACHING
            self._later(_DETACH_SECONDS, fault, lambda: self._finish_detach(attachment, fault, force=force))
        return answer

    def delete(self, volume: Volume, fault: Fault | None) -> None:
        """Raises VolumeInUse while it is attached."""
        if volume.attachments:
            raise errors.volume_in_use_by(volume.id, volume.attachments[0].instance_id)
        if not _is(fault, Effect.LIE):
            volume.state = VolumeState.DELETING
            self._later(_DELETE_SECONDS, fault, lambda: self.forget(volume))

    def forget(self, volume: Volume) -> None:
        self._state.volumes.pop(volume.id, None)
        volume.backing.unlink(missing_ok=True)

    def snapshot(self, volume: Volume, description: str, tags: Mapping[str, str], fault: Fault | None) -> Snapshot:
        """The bytes of this moment; `completed` when the time has come."""
        snapshot = Snapshot(
            id=new_id("snap"),
            scope=volume.scope,
            volume_id=volume.id,
            size_gib=volume.size_gib,
            backing=self._directory / "disks" / secrets.token_hex(8),
            started=now(),
            description=description,
            tags=dict(tags),
        )
        backing.copy(volume.backing, snapshot.backing)
        self._state.snapshots[snapshot.id] = snapshot
        self._later(_SNAPSHOT_SECONDS, fault, lambda: _finish_snapshot(snapshot, fault))
        return snapshot

    def check_attach(self, volume: Volume, instance: Instance, device: str, card: int = 0) -> None:
        """Raises what AttachVolume is refused with."""
        if instance.state is InstanceState.TERMINATED:
            raise errors.instance_not_running(instance.id)
        if volume.zone != instance.zone:
            raise errors.zone_mismatch(volume.id, instance.id)
        if not is_device_name(device):
            raise errors.bad_device_name(device)
        if not 0 <= card < instance.type.cards:
            raise errors.no_card(card, instance.type.name)
        self._check_free(volume, instance)
        self._check_slot(instance, device)
        self._check_card(instance, card)
        if not volume.is_key_usable:
            raise errors.key_not_usable(volume.id)

    def join(self, volume: Volume, instance: Instance, device: str, card: int = 0) -> Attachment:
        """The record of an attachment that is on its way."""
        attachment = Attachment(volume.id, instance.id, device, AttachmentState.ATTACHING, now(), card=card)
        volume.attachments.append(attachment)
        volume.state = VolumeState.IN_USE
        return attachment

    def finish_attach(self, attachment: Attachment, fault: Fault | None = None) -> None:
        if attachment.state is not AttachmentState.ATTACHING:
            return  # detached in the meantime
        if _is(fault, Effect.FAIL):
            self.part(attachment)
            return
        self.plug(attachment)
        attachment.state = AttachmentState.ATTACHED

    def part(self, attachment: Attachment) -> None:
        """Ends an attachment at once, whoever uses the device."""
        volume = self._state.volumes[attachment.volume_id]
        self._guest(attachment).unplug(volume.id)
        attachment.state = AttachmentState.DETACHED
        volume.attachments.remove(attachment)
        if not volume.attachments:
            volume.state = VolumeState.AVAILABLE

    def plug(self, attachment: Attachment) -> None:
        """Shows the volume to a guest that runs."""
        volume = self._state.volumes[attachment.volume_id]
        instance = self._state.instances[attachment.instance_id]
        if instance.state is InstanceState.RUNNING:
            kind = hardware(volume, instance, attachment.device)
            self._guest(attachment).plug(volume.id, volume.backing, kind, links(volume, instance))

    def unplug(self, attachment: Attachment) -> None:
        self._guest(attachment).unplug(attachment.volume_id)

    def _guest(self, attachment: Attachment) -> Guest:
        return self._guests[self._state.instances[attachment.instance_id].name]

    def _later(self, seconds: float, fault: Fault | None, action: Action) -> None:
        def locked() -> None:
            with self._lock:
                action()

        if _is(fault, Effect.HANG):
            self._timeline.hold(locked)
        elif fault is not None and fault.effect is Effect.LATE:
            self._timeline.after(seconds * self._timeline.pace + fault.seconds, locked)
        else:
            self._timeline.normally(seconds, locked)

    def _check_free(self, volume: Volume, instance: Instance) -> None:
        if volume.state not in (VolumeState.AVAILABLE, VolumeState.IN_USE):
            raise errors.not_available(volume.id)
        if volume.attachments and (not volume.is_multi_attach or volume.on(instance.id)):
            raise errors.volume_attached(volume.id)
        if volume.is_multi_attach and instance.type.hypervisor is not Hypervisor.NITRO:
            raise errors.multi_attach_unsupported(instance.id)
        if len(volume.attachments) >= _MULTI_ATTACH_INSTANCES:
            raise errors.multi_attach_limit(volume.id, _MULTI_ATTACH_INSTANCES)

    def _check_slot(self, instance: Instance, device: str) -> None:
        attachments = self._state.attachments(instance.id)
        taken = {item.device for item in attachments} | instance.ami_devices
        if instance.type.hypervisor is Hypervisor.XEN and kernel_name(device) in map(kernel_name, taken):
            raise errors.device_name_taken(device)
        if device in taken:
            raise errors.device_name_taken(device)
        if len(attachments) >= instance.volume_limit:
            raise errors.attachment_limit(instance.volume_limit)

    def _check_card(self, instance: Instance, card: int) -> None:
        on_card = sum(item.card == card for item in self._state.attachments(instance.id))
        limit = instance.volume_limit // instance.type.cards
        if on_card >= limit:
            raise errors.attachment_limit(limit)

    def _finish_detach(self, attachment: Attachment, fault: Fault | None, *, force: bool) -> None:
        if attachment.state not in (AttachmentState.DETACHING, AttachmentState.BUSY):
            return  # detached by hand in the meantime
        if _is(fault, Effect.FAIL):
            attachment.state = AttachmentState.ATTACHED
        elif self._is_held(attachment) and not force:
            attachment.state = AttachmentState.BUSY
            again = lambda: self._finish_detach(attachment, None, force=force)  # noqa: E731 - a closure, not a function
            self._timeline.after(_BUSY_SECONDS, lambda: self._later(0, None, again))
        else:
            self.part(attachment)

    def _is_held(self, attachment: Attachment) -> bool:
        """Mounted, or opened exclusively, on this machine."""
        plugged = self._guest(attachment).plugged.get(attachment.volume_id)
        if plugged is None:
            return False
        try:
            os.close(os.open(plugged.loop, os.O_RDONLY | os.O_EXCL))
        except OSError as error:
            return error.errno == errno.EBUSY
        return False


def _finish_snapshot(snapshot: Snapshot, fault: Fault | None) -> None:
    failed = _is(fault, Effect.FAIL)
    snapshot.state = SnapshotState.ERROR if failed else SnapshotState.COMPLETED
    snapshot.progress = "40%" if failed else "100%"


def _is(fault: Fault | None, effect: Effect) -> bool:
    return fault is not None and fault.effect is effect


def new_id(prefix: str) -> str:
    return f"{prefix}-0{secrets.token_hex(8)}"
