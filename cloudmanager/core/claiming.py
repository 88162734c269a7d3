"""Turns a client's request into a claim: checked by itself, by policies, and against all other claims."""

import hashlib
import json
import threading
from dataclasses import dataclass
from datetime import timedelta

from cloudmanager.core.clock import Clock
from cloudmanager.core.errors import InvalidRequest, ShuttingDown, UnsupportedAccess
from cloudmanager.core.hookspecs import ExportRequest
from cloudmanager.core.model import (
    MAX_HOLDER_LENGTH,
    MAX_KEY_LENGTH,
    MAX_NOTE_LENGTH,
    Access,
    AttachmentState,
    Disk,
    DiskId,
    ExportState,
    check_text,
)
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.records import ExportRecord, new_export_name
from cloudmanager.core.settings import ExportSettings
from cloudmanager.core.store import Store


@dataclass(frozen=True)
class ClaimRequest:
    """A client's request for a disk."""

    disk: str
    access: Access
    holder: str
    ttl: timedelta | None = None
    """None: what the settings say."""
    note: str = ""
    idempotency_key: str | None = None

    def check(self) -> None:
        """Raises InvalidRequest."""
        check_text("holder", self.holder, MAX_HOLDER_LENGTH, needed=True)
        check_text("note", self.note, MAX_NOTE_LENGTH)
        if self.idempotency_key is not None:
            check_text("Idempotency-Key", self.idempotency_key, MAX_KEY_LENGTH, needed=True)

    @property
    def digest(self) -> str:
        """The same for the same request, whatever its key."""
        seconds = None if self.ttl is None else self.ttl.total_seconds()
        fields = [self.disk, self.access, self.holder, seconds, self.note]
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


class Claiming:
    """Makes the claims of one node."""

    def __init__(
        self,
        node: str,
        store: Store,
        plugins: Plugins,
        settings: ExportSettings,
        clock: Clock,
        is_ending: threading.Event,
    ) -> None:
        """Once `is_ending` is set, nothing new is claimed."""
        self._node = node
        self._store = store
        self._plugins = plugins
        self._settings = settings
        self._clock = clock
        self._is_ending = is_ending

    def claim(self, export_id: str, request: ClaimRequest) -> ExportRecord:
        """The export, under that id unless the idempotency key has given it another one before."""
        disk_id = DiskId.parse(request.disk)
        provider = self._plugins[disk_id.provider]
        request.check()
        lifetime = self.lifetime(request.ttl)
        key, digest = request.idempotency_key, request.digest
        if key is not None and (earlier := self._store.claims.replayed(key, digest)):
            return earlier
        self._refuse_when_ending()
        # First: a cloud that is down may be why it is paused.
        self._store.maintenance.refuse(disk_id.provider, self._node, self._clock.boottime())
        disk = provider.describe(disk_id)
        record = self._record(export_id, disk, request, lifetime)
        if request.access not in disk.access:
            self._store.claims.refuse_conflict(record)  # if an export holds the disk, its holder is named
            raise _unsupported(disk, request.access)
        if self._plugins.have_policies:
            self._plugins.authorize(ExportRequest(disk, request.access, request.holder, self._is_attached(disk)))
        self._refuse_when_ending()  # the calls above may have taken long
        return self._store.claims.add(record, key, digest)

    def lifetime(self, ttl: timedelta | None) -> timedelta:
        """How long an export with that request lives. Raises InvalidRequest."""
        limits = self._settings
        lifetime = timedelta(seconds=limits.default_ttl_seconds) if ttl is None else ttl
        if not timedelta(seconds=1) <= lifetime <= timedelta(seconds=limits.max_ttl_seconds):
            raise InvalidRequest(f"ttl_seconds must be from 1 to {limits.max_ttl_seconds}.")
        return lifetime

    def _record(self, export_id: str, disk: Disk, request: ClaimRequest, lifetime: timedelta) -> ExportRecord:
        now, boottime = self._clock.now(), self._clock.boottime()
        return ExportRecord(
            id=export_id,
            node=self._node,
            disk=disk,
            access=request.access,
            holder=request.holder,
            note=request.note,
            state=ExportState.PENDING,
            name=new_export_name(),
            created_at=now,
            expires_at=now + lifetime,
            boot_id=self._clock.boot_id,
            expires_boottime=boottime + lifetime.total_seconds(),
            unready_boottime=boottime,
        )

    def _is_attached(self, disk: Disk) -> bool:
        record = self._store.attachments.get(self._node, disk.canonical_id)
        return record is not None and record.state in (AttachmentState.ATTACHED, AttachmentState.FOREIGN)

    def _refuse_when_ending(self) -> None:
        if self._is_ending.is_set():
            raise ShuttingDown("The service is being stopped and takes no new exports. Ask again when it runs.")


def _unsupported(disk: Disk, access: Access) -> UnsupportedAccess:
    possible = ", ".join(sorted(disk.access)) or "nothing"
    held = f" It is held by {', '.join(disk.held_by)}." if disk.held_by else ""
    boot = " This machine runs from it." if disk.is_boot else ""
    why = f"{boot} {disk.description}" if disk.description else boot
    return UnsupportedAccess(f"{disk.id} cannot be exported {access}; possible: {possible}.{held}{why}")
