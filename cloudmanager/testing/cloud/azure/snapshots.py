"""Snapshots as the API serves them: taken at once, copied in the background."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from cloudmanager.testing.cloud import backing
from cloudmanager.testing.cloud.azure import documents, errors
from cloudmanager.testing.cloud.azure.context import RequestContext
from cloudmanager.testing.cloud.azure.disks import CREATE_SECONDS, DELETE_SECONDS, Starter, check_name, find_source
from cloudmanager.testing.cloud.azure.operations import Completion, Scheduler
from cloudmanager.testing.cloud.azure.state import Inventory, Place, Snapshot, within
from cloudmanager.testing.cloud.wire import Response

_COPY_SECONDS = 30.0


class Snapshots:
    def __init__(self, inventory: Inventory, starter: Starter, scheduler: Scheduler, directory: Path) -> None:
        self._inventory = inventory
        self._starter = starter
        self._scheduler = scheduler
        self._directory = directory

    def get(self, context: RequestContext) -> Response:
        return Response.of_json(200, documents.snapshot(context.seen.snapshot(context.match.resource)))

    def list(self, context: RequestContext, *, size: int, url: str) -> Response:
        records = within(context.seen.snapshots.values(), context.subscription, context.match.names.get("group"))
        return context.page(records, lambda it: it.id.key, documents.snapshot, size=size, url=url)

    def put(self, context: RequestContext) -> Response:
        body = context.body("Snapshot")
        known = self._inventory.snapshots.get(context.match.resource.key)
        record = self._take(context, body) if known is None else self._update(known, body)
        record.provisioning_state = "Updating"
        shown = documents.snapshot(record)
        give_up = partial(self._forget if known is None else _succeed, record)
        completion = Completion(partial(self._complete, record), fail=give_up, forget=give_up)
        return self._starter.start(
            context, record.place.region, CREATE_SECONDS, completion, partial(documents.snapshot, record), shown
        )

    def delete(self, context: RequestContext) -> Response:
        record = self._inventory.snapshots.get(context.match.resource.key)
        if record is None:
            return Response(204)
        keep = partial(_succeed, record)
        completion = Completion(partial(self._forget, record), fail=keep, forget=keep)
        return self._starter.start(context, record.place.region, DELETE_SECONDS, completion, lambda: None)

    def _take(self, context: RequestContext, body: Mapping[str, Any]) -> Snapshot:
        check_name(context.match.resource.name)
        for member in ("location", "properties"):
            if not body.get(member):
                raise errors.missing_member(member)
        creation = body["properties"]["creationData"]
        source = find_source(self._inventory, context, creation)
        if source is None:
            raise errors.bad_value(creation["createOption"], "creationData.createOption")
        record = Snapshot(
            context.match.resource,
            Place(str(body["location"]).casefold()),
            source.size_bytes,
            dict(creation),
            is_incremental=bool(body["properties"].get("incremental")),
            tags=dict(body.get("tags") or {}),
        )
        record.file = backing.copy(source.file, self._directory / f"{record.unique_id}.img")
        self._inventory.snapshots[record.id.key] = record
        return record

    @staticmethod
    def _update(record: Snapshot, body: Mapping[str, Any]) -> Snapshot:
        wanted = (body.get("properties") or {}).get("creationData")
        if wanted is not None and dict(wanted) != record.creation_data:
            raise errors.frozen_property("creationData")
        record.tags = dict(body.get("tags") or record.tags)
        return record

    def _complete(self, record: Snapshot) -> None:
        """The request is done; the copy goes on in the background."""
        _succeed(record)
        if record.completion_percent < 100:
            self._scheduler.timeline.normally(_COPY_SECONDS, partial(self._copied, record))

    def _copied(self, record: Snapshot) -> None:
        with self._scheduler.lock:
            record.completion_percent = 100.0

    def _forget(self, record: Snapshot) -> None:
        self._inventory.snapshots.pop(record.id.key, None)
        record.file.unlink(missing_ok=True)


def _succeed(record: Snapshot) -> None:
    record.provisioning_state = "Succeeded"
