"""Managed disks as the API serves them."""

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cloudmanager.testing.cloud import backing
from cloudmanager.testing.cloud.azure import documents, errors
from cloudmanager.testing.cloud.azure.context import RequestContext
from cloudmanager.testing.cloud.azure.operations import Completion, Document, Form, Operations, Running, Scheduler
from cloudmanager.testing.cloud.azure.resource_id import ResourceId
from cloudmanager.testing.cloud.azure.state import GIB, Inventory, ManagedDisk, Place, within
from cloudmanager.testing.cloud.wire import Response

CREATE_SECONDS = 3.0
DELETE_SECONDS = 2.0
_RETRY_AFTER_SECONDS = 2.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}(?<![-.])")


@dataclass(frozen=True)
class Source:
    """What a disk or a snapshot is copied from."""

    id: ResourceId
    file: Path
    size_bytes: int


class Starter:
    """Starts the operations of disks and snapshots, and answers as they do: 202, with both headers."""

    def __init__(self, operations: Operations, scheduler: Scheduler) -> None:
        self._operations = operations
        self._scheduler = scheduler

    def start(
        self,
        context: RequestContext,
        region: str,
        seconds: float,
        completion: Completion,
        result: Callable[[], Document | None],
        body: Document | None = None,
    ) -> Response:
        operation = self._operations.add(
            Running(context.subscription, region, "DiskOperations", result, context.version, shows_output=True)
        )
        self._scheduler.start(operation, seconds, context.fault, completion)
        headers = {**self._operations.headers(operation, Form.BOTH), **self._retry_after()}
        return Response(202, headers=headers) if body is None else Response.of_json(202, body, headers)

    def _retry_after(self) -> dict[str, str]:
        """In milliseconds where the emulated time runs faster: clients take `Retry-After: 0` for no advice."""
        pace = self._scheduler.timeline.pace
        if pace >= 1:
            return {"Retry-After": f"{_RETRY_AFTER_SECONDS * pace:.0f}"}
        return {"retry-after-ms": f"{max(20, 1000 * _RETRY_AFTER_SECONDS * pace):.0f}"}


class Disks:
    def __init__(self, inventory: Inventory, starter: Starter, directory: Path) -> None:
        self.quota: int | None = None
        """How many disks a subscription may have."""
        self._inventory = inventory
        self._starter = starter
        self._directory = directory

    def get(self, context: RequestContext) -> Response:
        return Response.of_json(200, documents.disk(context.seen.disk(context.match.resource)))

    def list(self, context: RequestContext, *, size: int, url: str) -> Response:
        records = within(context.seen.disks.values(), context.subscription, context.match.names.get("group"))
        return context.page(records, lambda it: it.id.key, documents.disk, size=size, url=url)

    def put(self, context: RequestContext) -> Response:
        body = context.body("Disk")
        known = self._inventory.disks.get(context.match.resource.key)
        record = self._create(context, body) if known is None else self._update(known, body)
        record.provisioning_state = "Updating"
        shown = documents.disk(record)
        completion = Completion(
            complete=partial(_succeed, record),
            fail=partial(self._give_up, record, is_new=known is None),
            forget=partial(self._give_up, record, is_new=known is None),
        )
        return self._starter.start(
            context, record.place.region, CREATE_SECONDS, completion, partial(documents.disk, record), shown
        )

    def delete(self, context: RequestContext) -> Response:
        record = self._inventory.disks.get(context.match.resource.key)
        if record is None:
            return Response(204)
        holder = next((it for it in self._inventory.machines.values() if it.entry(record.id)), None)
        if holder is not None:
            raise errors.attached_disk(record.id.name, str(holder.id))
        completion = Completion(partial(self.forget, record), fail=_nothing, forget=_nothing)
        return self._starter.start(context, record.place.region, DELETE_SECONDS, completion, lambda: None)

    def grant_access(self, context: RequestContext, url: str) -> Response:
        wanted = context.body("GrantAccessData")
        record = self._inventory.disk(context.match.resource)
        if record.owners:
            raise errors.access_while_attached(record.id.name, str(record.owners[0]))
        if str(wanted["access"]).casefold() != "read":
            raise errors.bad_value(wanted["access"], "access")
        completion = Completion(partial(self._open_access, record), fail=_nothing, forget=_nothing)
        return self._starter.start(
            context, record.place.region, 1.0, completion, lambda: {"accessSAS": f"{url}{access_path(record)}"}
        )

    def revoke_access(self, context: RequestContext) -> Response:
        record = self._inventory.disk(context.match.resource)
        completion = Completion(partial(setattr, record, "access_token", ""), fail=_nothing, forget=_nothing)
        return self._starter.start(context, record.place.region, 1.0, completion, lambda: None)

    def add(self, record: ManagedDisk, source: Source | None = None) -> None:
        """With its bytes: a copy, or zeros."""
        record.file = self._directory / f"{record.unique_id}.img"
        if source is None:
            backing.make(record.file, record.size_bytes)
        else:
            backing.copy(source.file, record.file, record.size_bytes)
        self._inventory.disks[record.id.key] = record

    def forget(self, record: ManagedDisk) -> None:
        """The record and the bytes."""
        self._inventory.disks.pop(record.id.key, None)
        record.file.unlink(missing_ok=True)

    def _create(self, context: RequestContext, body: Mapping[str, Any]) -> ManagedDisk:
        resource = context.match.resource
        check_name(resource.name)
        owned = within(self._inventory.disks.values(), context.subscription, None)
        if self.quota is not None and sum(1 for _ in owned) >= self.quota:
            raise errors.quota(self.quota)
        properties, region = _required(body)
        source = find_source(self._inventory, context, properties["creationData"])
        record = ManagedDisk(
            resource,
            Place(region, (body.get("zones") or [""])[0]),
            _size(properties, source),
            sku=(body.get("sku") or {}).get("name", "Standard_LRS"),
            max_shares=properties.get("maxShares") or 1,
            tags=dict(body.get("tags") or {}),
            creation_data=dict(properties["creationData"]),
        )
        self.add(record, source)
        return record

    @staticmethod
    def _update(record: ManagedDisk, body: Mapping[str, Any]) -> ManagedDisk:
        wanted = (body.get("properties") or {}).get("creationData")
        if wanted is not None and dict(wanted) != record.creation_data:
            raise errors.frozen_property("creationData")
        record.tags = dict(body.get("tags") or record.tags)
        record.version += 1
        return record

    def _give_up(self, record: ManagedDisk, *, is_new: bool) -> None:
        if is_new:
            self.forget(record)
        else:
            record.provisioning_state = "Failed"

    @staticmethod
    def _open_access(record: ManagedDisk) -> None:
        record.access_token = secrets.token_urlsafe(24)


def access_path(record: ManagedDisk) -> str:
    """Of the blob that a disk's bytes are read from, with the signature that opens it."""
    return f"/md-{record.unique_id}/abcd?sr=b&sp=r&sig={record.access_token}"


def check_name(name: str) -> None:
    """Raises ArmError."""
    if not _NAME.fullmatch(name):
        raise errors.bad_resource_name(name)


def find_source(inventory: Inventory, context: RequestContext, creation: Mapping[str, Any]) -> Source | None:
    """What `creationData` copies: a disk or a finished snapshot. Raises ArmError."""
    if creation["createOption"].casefold() != "copy":
        return None
    text = creation.get("sourceResourceId")
    if not text:
        raise errors.missing_member("creationData.sourceResourceId")
    source = ResourceId.parse(text)
    if source is not None and (disk := inventory.disks.get(source.key)):
        context.need_link("disks/beginGetAccess/action", text)
        return Source(disk.id, disk.file, disk.size_bytes)
    if source is not None and (snapshot := inventory.snapshots.get(source.key)):
        context.need_link("snapshots/beginGetAccess/action", text)
        if snapshot.completion_percent < 100:
            raise errors.unfinished_source(snapshot.id.name, snapshot.completion_percent)
        return Source(snapshot.id, snapshot.file, snapshot.size_bytes)
    raise errors.no_source(text)


def _required(body: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Properties and region. Raises ArmError."""
    for member in ("location", "properties"):
        if not body.get(member):
            raise errors.missing_member(member)
    return body["properties"], str(body["location"]).casefold().replace(" ", "")


def _size(properties: Mapping[str, Any], source: Source | None) -> int:
    gigabytes = properties.get("diskSizeGB")
    if gigabytes is None and source is None:
        raise errors.size_missing()
    wanted = 0 if gigabytes is None else int(gigabytes) * GIB
    if source is not None and gigabytes is not None and wanted < source.size_bytes:
        raise errors.bad_value(gigabytes, "disk.diskSizeGB")
    return max(wanted, source.size_bytes if source else 0)


def _succeed(record: ManagedDisk) -> None:
    record.provisioning_state = "Succeeded"


def _nothing() -> None:
    """The records stay as they are."""
