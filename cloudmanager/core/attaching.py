"""Attaches a disk to this node, locates and detaches it: always by a plan that was committed first."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

from cloudmanager.core.blockdevice import flush, prepare
from cloudmanager.core.clock import Clock
from cloudmanager.core.disklocks import DiskLocks
from cloudmanager.core.errors import (
    CloudManagerError,
    DeviceError,
    DeviceNotReady,
    DiskNotFound,
    DiskReplaced,
    ForeignAttachment,
    NameClash,
)
from cloudmanager.core.incarnation import is_replaced, refuse_device_of_other, refuse_other
from cloudmanager.core.model import (
    CONFIRMED,
    Access,
    Attachment,
    AttachmentState,
    AttachPlan,
    Device,
    Disk,
    ExportState,
    NotAttached,
    Problem,
)
from cloudmanager.core.plugins import Plugins, Provider
from cloudmanager.core.records import AttachmentRecord, ExportRecord
from cloudmanager.core.store import Store

log = logging.getLogger(__name__)


class AttachmentLost(DeviceNotReady):
    """Another program detached the disk: its content may have changed in the meantime."""


class Attachments:
    """The attachments of one node. Callers ensure that one thread at a time works on a disk."""

    def __init__(
        self,
        node: str,
        store: Store,
        plugins: Plugins,
        clock: Clock,
        linger_seconds: float,
        locks: DiskLocks | None = None,
    ) -> None:
        """`locks` are those of this machine's services."""
        self._node = node
        self._store = store
        self._plugins = plugins
        self._clock = clock
        self._linger_seconds = linger_seconds
        self._locks = locks
        self._is_ending = False
        self._never_located: set[str] = set()
        """Disks that were attached here without being located yet: nothing can have been written to them."""

    def stop_lingering(self) -> None:
        """From now on a disk is detached when its last export has ended."""
        self._is_ending = True

    def ensure(self, live: Sequence[ExportRecord]) -> None:
        """The disk of these exports is attached as they need it. Raises DiskReplaced, what the provider raises."""
        disk = live[0].disk
        record = self._store.attachments.get(self._node, disk.canonical_id)
        access = _needed(live)
        if record and _is_of_another(record, disk):
            self.refuse_replaced(disk)
            self._disown(record)
            record = None
        if record and record.is_ours and access.writes_disk and not record.plan.access.writes_disk:
            self._detach(record)  # it lingers attached read-only, and its only export wants to write
            record = None
        if record is None:
            record = self._commit(self._new_plan(disk, access))
        elif record.state not in (AttachmentState.ATTACHED, AttachmentState.FOREIGN):  # a plan of some time ago
            self.refuse_replaced(disk)
        if record.idle_boottime is not None:
            self._store.attachments.set_idle(record, None)
        if record.state not in (AttachmentState.ATTACHED, AttachmentState.FOREIGN):
            self._store.exports.begin_attaching([each.id for each in live if each.state is ExportState.PENDING])
            self._attach(record)

    def locate(self, disk: Disk, live: Sequence[ExportRecord]) -> Device:
        """The device, prepared for these exports. Raises DiskReplaced, AttachmentLost when it is planned anew."""
        device = self._located(disk)
        record = self._store.attachments.get(self._node, disk.canonical_id)
        if isinstance(device, Device):
            self._never_located.discard(disk.canonical_id)
            if record and record.is_ours and device.is_block:
                self._prepare(record, device, live)
            if record and not record.is_ours and record.plan.access.writes_disk:
                return replace(device, is_stable=False)  # who attached it may write to it here
            return device
        self.replan(disk.canonical_id, live)
        raise AttachmentLost(f"{disk.id} is not attached to this machine any more; it is being attached again.")

    def replan(self, canonical_id: str, live: Sequence[ExportRecord]) -> None:
        """Replaces a plan whose attachment somebody else detached by a new one. Raises what the provider raises.

        The old plan stays if the provider finds its attachment: then its earlier answer was outdated, and what
        is ours must not become foreign by that. Either way the disk is attached again before it is used.
        """
        record = self._store.attachments.get(self._node, canonical_id)
        if record is None:
            return
        if record.is_ours:
            record = self._store.attachments.set_state(record, AttachmentState.ATTACHING)
        self.refuse_replaced(record.plan.disk)
        plan = self._new_plan(record.plan.disk, _needed(live))
        if plan.is_present and record.is_ours and plan.slot and plan.slot == record.plan.slot:
            return
        self._store.attachments.forget(record)
        self._commit(plan)

    def refuse_replaced(self, disk: Disk) -> None:
        """Raises DiskReplaced when another disk now has the name of the claimed one, and what `describe` raises."""
        refuse_other(self._plugins[disk.id.provider], disk)

    def disown(self, disk: Disk) -> None:
        """Forgets the attachment of a disk that is gone: the disk that now has its name was not attached by it."""
        record = self._store.attachments.get(self._node, disk.canonical_id)
        if record and not _is_of_another(record, disk):
            self._disown(record)

    def detach_unused(self, canonical_id: str) -> float | None:
        """Ends the attachment of a disk without exports, if it is ours. Returns until when it lingers.

        Raises what the provider raises, after keeping it on the attachment.
        """
        record = self._store.attachments.get(self._node, canonical_id)
        if record is None:
            return None
        if not record.is_ours or record.state is AttachmentState.PLANNED:  # planned only: what is there is not ours
            self._store.attachments.forget(record)
            return None
        lingers_until = self._lingers_until(record)
        if self._clock.boottime() < lingers_until:
            return lingers_until
        self._detach(record)
        return None

    def _prepare(self, record: AttachmentRecord, device: Device, live: Sequence[ExportRecord]) -> None:
        """Raises AccessConflict where another service of this machine writes to what would become read-only."""
        is_writing = _writes(live)
        readers = {} if is_writing else {record.plan.disk.canonical_id: False}
        with self._locks.held(readers) if self._locks else nullcontext():
            prepare(device, read_only=not is_writing)

    def _new_plan(self, disk: Disk, access: Access) -> AttachPlan:
        return self._plugins[disk.id.provider].plan_attach(disk, access)

    def _commit(self, plan: AttachPlan) -> AttachmentRecord:
        state = AttachmentState.FOREIGN if plan.is_present else AttachmentState.PLANNED
        self._never_located.add(plan.disk.canonical_id)
        return self._store.attachments.plan(self._node, plan, state)

    def _attach(self, record: AttachmentRecord) -> None:
        record = self._store.attachments.set_state(record, AttachmentState.ATTACHING)

        def keep(proof: str) -> None:
            nonlocal record
            record = self._store.attachments.keep_proof(record, proof)

        try:
            attachment = self._plugins[record.plan.disk.id.provider].attach(record.plan, keep)
        except NameClash:
            self._store.attachments.forget(record)  # nothing was attached: the next plan takes another name
            raise
        except CloudManagerError as error:
            self._store.attachments.set_state(record, AttachmentState.ATTACHING, Problem.of(error))
            raise
        if attachment.request_id != record.plan.request_id:
            self._leave_foreign(record, attachment)
            return
        if attachment.access is not record.plan.access:
            record = self._store.attachments.keep_access(record, attachment.access)
        if not record.plan.proof:
            keep(CONFIRMED)
        self._store.attachments.set_state(record, AttachmentState.ATTACHED)

    def _leave_foreign(self, record: AttachmentRecord, attachment: Attachment) -> None:
        """The disk is exported as it is, and never detached."""
        problem = _unproved(record, attachment.reason)
        log.warning("%s is not taken for ours: %s", record.plan.disk.id, problem.detail)
        self._store.attachments.set_state(record, AttachmentState.FOREIGN, problem)

    def _detach(self, record: AttachmentRecord) -> None:
        record = self._store.attachments.set_state(record, AttachmentState.DETACHING, record.error)
        try:
            with self._locks.detaching(record.plan.disk.canonical_id) if self._locks else nullcontext():
                if record.plan.proof:  # else nothing was served of it, and it may be somebody else's
                    self._flush(record.plan.disk)
                self._plugins[record.plan.disk.id.provider].detach(record.plan.attachment())
        except DiskReplaced:
            self._disown(record)
            return
        except ForeignAttachment as error:  # an attach was cut short, and nothing proves that it had any effect
            log.warning("%s is left attached: %s", record.plan.disk.id, error.detail)
            record = self._store.attachments.set_state(record, AttachmentState.FOREIGN, Problem.of(error))
        except CloudManagerError as error:
            log.warning("%s cannot be detached: %s (%s)", record.plan.disk.id, error.detail, error.code)
            self._store.attachments.set_state(record, AttachmentState.STUCK, Problem.of(error))
            raise
        self._never_located.discard(record.plan.disk.canonical_id)
        self._store.attachments.forget(record)

    def _disown(self, record: AttachmentRecord) -> None:
        """`detach` removes the rest of the old disk if `locate` distinguishes the two: then `detach` does, too."""
        disk = record.plan.disk
        log.warning("%s was replaced: what has its name now is not detached", disk.id)
        provider = self._plugins[disk.id.provider]
        try:
            provider.locate(disk)
        except DiskReplaced:
            self._clear(provider, record)
        except CloudManagerError as error:
            log.info("%s may have left something behind: %s", disk.id, error.detail)
        self._never_located.discard(record.plan.disk.canonical_id)
        self._store.attachments.forget(record)

    def _clear(self, provider: Provider, record: AttachmentRecord) -> None:
        if not record.is_ours:
            return
        try:
            provider.detach(record.plan.attachment())
        except CloudManagerError as error:
            log.warning("%s has left something behind: %s", record.plan.disk.id, error.detail)

    def _located(self, disk: Disk) -> Device | NotAttached:
        """Of this disk and no other that has its name now: raises DiskReplaced, and what the provider raises."""
        provider = self._plugins[disk.id.provider]
        device = provider.locate(disk)
        if isinstance(device, Device):
            refuse_device_of_other(provider, disk, device)
        return device

    def _flush(self, disk: Disk) -> None:
        """All writes are on the disk, and no program holds it. A device that is not there has nothing to flush.

        Raises DiskInUse, DiskReplaced, and what the provider raises when it cannot be asked: unknown is not absent.
        """
        try:
            device = self._located(disk)
        except DiskReplaced:
            raise
        except CloudManagerError as error:
            if not isinstance(error, DeviceError | DiskNotFound) and disk.canonical_id not in self._never_located:
                raise
            log.warning("%s is detached without a flush: %s", disk.id, error.detail)
            return
        if isinstance(device, Device) and device.is_block:
            flush(device)

    def _lingers_until(self, record: AttachmentRecord) -> float:
        if self._is_ending or (self._linger_seconds and self._store.maintenance.is_draining(self._node)):
            return 0.0  # no client will come for it
        idle = record.idle_boottime if record.boot_id == self._clock.boot_id else None
        if idle is None:
            idle = self._clock.boottime()
            if self._linger_seconds:
                self._store.attachments.set_idle(record, idle)
        return idle + self._linger_seconds


def _is_of_another(record: AttachmentRecord, disk: Disk) -> bool:
    """The attachment is of a disk that had the same name before, or has it since."""
    return is_replaced(record.plan.disk, disk.incarnation, disk.created_at)


def _unproved(record: AttachmentRecord, reason: str) -> Problem:
    reason = reason or f"{record.plan.disk.id} was attached by somebody else after it was planned."
    return Problem.of(
        ForeignAttachment(
            f"{reason} So cloudmanager exports it and never detaches it: do so by hand when it is not used any more."
        )
    )


def _needed(exports: Sequence[ExportRecord]) -> Access:
    return Access.READ_WRITE if _writes(exports) else Access.READ_ONLY


def _writes(exports: Sequence[ExportRecord]) -> bool:
    return any(export.access.writes_disk for export in exports)
