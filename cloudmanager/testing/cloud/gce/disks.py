"""`disks`, `regionDisks` and `snapshots`."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cloudmanager.testing.cloud import backing
from cloudmanager.testing.cloud.gce import documents, errors, filters
from cloudmanager.testing.cloud.gce.context import RequestContext, page
from cloudmanager.testing.cloud.gce.operations import Operations
from cloudmanager.testing.cloud.gce.state import HOST, Cloud, Disk, OperationError, Snapshot, path_of
from cloudmanager.testing.cloud.wire import Response

_INSERT_SECONDS = 5.0
_DELETE_SECONDS = 2.0
_SNAPSHOT_SECONDS = 20.0
_UNREACHABLE = "UNREACHABLE"
_NO_RESULTS = "NO_RESULTS_ON_PAGE"


class Disks:
    """Handlers; they are called under the emulator's lock."""

    def __init__(self, cloud: Cloud, operations: Operations, files: Path, quota_gb: int | None) -> None:
        """`quota_gb`: how many GB all disks of a project may have together."""
        self._cloud = cloud
        self._operations = operations
        self._files = files
        self._quota_gb = quota_gb
        self.unreachable: set[str] = set()
        """Scopes that an aggregated list says nothing of: `zones/us-central1-c`."""

    def file(self, path: str) -> Path:
        """The bytes of a disk or a snapshot."""
        return self._files / f"{path.removeprefix('projects/').replace('/', '_')}.img"

    def get(self, context: RequestContext) -> Response:
        return Response.of_json(200, documents.disk(_find(context, context.seen), context.seen.users()))

    def list(self, context: RequestContext) -> Response:
        self._check_scope(context)
        prefix = f"projects/{context.project}/{context.scope}/"
        found = [disk for disk in _matching(context) if disk.path.startswith(prefix)]
        items, token = page(found, context)
        users = context.seen.users()
        answer: documents.Document = {
            "kind": "compute#diskList",
            "selfLink": f"{HOST}{prefix}disks",
            "items": [documents.disk(disk, users) for disk in items],
        }
        return Response.of_json(200, answer | ({"nextPageToken": token} if token else {}))

    def aggregated_list(self, context: RequestContext) -> Response:
        """Every zone and region is named on every page, with a warning where the page has nothing of it."""
        items, token = page(list(_matching(context)), context)
        users = context.seen.users()
        found: dict[str, list[documents.Document]] = {scope: [] for scope in _scopes(context.seen)}
        for disk in items:
            found[disk.scope].append(documents.disk(disk, users))
        scopes = {scope: self._shown(scope, disks) for scope, disks in found.items()}
        link = f"{HOST}projects/{context.project}/aggregated/disks"
        answer: documents.Document = {"kind": "compute#diskAggregatedList", "selfLink": link, "items": scopes}
        return Response.of_json(200, answer | ({"nextPageToken": token} if token else {}))

    def _shown(self, scope: str, disks: Sequence[documents.Document]) -> documents.Document:
        if scope in self.unreachable:
            return _warned(scope, _UNREACHABLE, f"The scope '{scope}' is not reachable.")
        nothing = f"There are no results for scope '{scope}' on this page."
        return {"disks": disks} if disks else _warned(scope, _NO_RESULTS, nothing)

    def insert(self, context: RequestContext) -> Response:
        self._check_scope(context)
        disk = self._new_disk(context)
        if disk.path in self._cloud.disks:
            raise errors.exists(disk.path)
        snapshot = self._source_snapshot(context)
        if snapshot is not None:
            disk.source_snapshot = snapshot.path
            disk.size_gb = disk.size_gb or snapshot.size_gb
        if disk.size_gb < (snapshot.size_gb if snapshot else 1):
            raise errors.invalid("resource.sizeGb", str(disk.size_gb), "The disk is too small.")
        self._cloud.disks[disk.path] = disk
        return self._operations.start(
            context, "insert", (disk.path, disk.id), lambda: self._fill(disk, snapshot), seconds=_INSERT_SECONDS
        )

    def delete(self, context: RequestContext) -> Response:
        disk = _find(context, self._cloud)
        if holder := next(self._cloud.holders(disk.path), None):
            raise errors.in_use(disk.path, holder[0].path)
        return self._operations.start(
            context, "delete", (disk.path, disk.id), lambda: self.forget(disk), seconds=_DELETE_SECONDS, disk=disk.path
        )

    def forget(self, disk: Disk) -> None:
        self._cloud.disks.pop(disk.path, None)
        self.file(disk.path).unlink(missing_ok=True)

    def create_snapshot(self, context: RequestContext) -> Response:
        return self._snapshot(context, _find(context, self._cloud))

    def insert_snapshot(self, context: RequestContext) -> Response:
        source = path_of(context.body.get("sourceDisk", ""), context.project)
        if source is None:
            raise errors.invalid("resource.sourceDisk", context.body.get("sourceDisk", ""), "The URL is malformed.")
        if source not in self._cloud.disks:
            raise errors.not_found(source)
        return self._snapshot(context, self._cloud.disks[source])

    def get_snapshot(self, context: RequestContext) -> Response:
        return Response.of_json(200, documents.snapshot(_find_snapshot(context, context.seen)))

    def delete_snapshot(self, context: RequestContext) -> Response:
        snapshot = _find_snapshot(context, self._cloud)

        def forget() -> None:
            self._cloud.snapshots.pop(snapshot.path, None)
            self.file(snapshot.path).unlink(missing_ok=True)

        return self._operations.start(context, "delete", (snapshot.path, snapshot.id), forget, seconds=_DELETE_SECONDS)

    def _snapshot(self, context: RequestContext, disk: Disk) -> Response:
        """The bytes are those of this moment; READY is when they are stored."""
        labels = dict(context.body.get("labels", {}))
        snapshot = Snapshot(
            context.project, context.body["name"], self._cloud.new_id(), disk.path, disk.id, disk.size_gb, labels
        )
        if snapshot.path in self._cloud.snapshots:
            raise errors.exists(snapshot.path)
        backing.copy(self.file(disk.path), self.file(snapshot.path))
        self._cloud.snapshots[snapshot.path] = snapshot
        snapshot.status = "UPLOADING"

        def store() -> None:
            snapshot.status = "READY"

        return self._operations.start(context, "createSnapshot", (disk.path, disk.id), store, seconds=_SNAPSHOT_SECONDS)

    def _new_disk(self, context: RequestContext) -> Disk:
        body = context.body
        size_gb = int(body.get("sizeGb", 0 if "sourceSnapshot" in body else 500))
        return Disk(
            context.project,
            context.scope,
            body["name"],
            self._cloud.new_id(),
            size_gb,
            type=str(body.get("type", "pd-standard")).rpartition("/")[2],
            labels=dict(body.get("labels", {})),
            status="CREATING",
            access_mode=body.get("accessMode", "READ_WRITE_SINGLE"),
            replica_zones=tuple(zone.rpartition("/")[2] for zone in body.get("replicaZones", ())),
            description=body.get("description", ""),
        )

    def _source_snapshot(self, context: RequestContext) -> Snapshot | None:
        given = context.body.get("sourceSnapshot")
        if given is None:
            return None
        path = path_of(given, context.project)
        if path is None:
            raise errors.invalid("resource.sourceSnapshot", given, "The URL is malformed.")
        if path not in self._cloud.snapshots:
            raise errors.not_found(path)
        if self._cloud.snapshots[path].status != "READY":
            raise errors.not_ready(path)
        return self._cloud.snapshots[path]

    def _fill(self, disk: Disk, snapshot: Snapshot | None) -> OperationError | None:
        total = sum(other.size_gb for other in self._cloud.disks.values() if other.project == disk.project)
        if self._quota_gb is not None and total > self._quota_gb:
            del self._cloud.disks[disk.path]
            message = f"Quota 'DISKS_TOTAL_GB' exceeded.  Limit: {self._quota_gb:.1f} in {disk.scope}."
            return OperationError("QUOTA_EXCEEDED", message)
        if snapshot is None:
            backing.make(self.file(disk.path), disk.size_bytes)
        else:
            backing.copy(self.file(snapshot.path), self.file(disk.path), disk.size_bytes)
        disk.status = "READY"
        return None

    def _check_scope(self, context: RequestContext) -> None:
        kind, _, name = context.scope.partition("/")
        if name not in (self._cloud.zones if kind == "zones" else self._cloud.regions):
            raise errors.not_found(f"projects/{context.project}/{context.scope}")


def _find(context: RequestContext, cloud: Cloud) -> Disk:
    path = context.path("disks", "disk")
    if path in cloud.disks:
        return cloud.disks[path]
    if re.fullmatch(r"\d+", context.parameters["disk"]):
        prefix = path.rpartition("/")[0]
        for disk in cloud.disks.values():
            if str(disk.id) == context.parameters["disk"] and disk.path.startswith(prefix):
                return disk
    raise errors.not_found(path)


def _find_snapshot(context: RequestContext, cloud: Cloud) -> Snapshot:
    path = context.path("snapshots", "snapshot")
    if path not in cloud.snapshots:
        raise errors.not_found(path)
    return cloud.snapshots[path]


def _matching(context: RequestContext) -> Iterator[Disk]:
    """The project's disks that the filter lets through, in the order of scope and name."""
    order = context.parameters.get("orderBy", "name")
    if order not in ("name", "creationTimestamp desc"):
        raise errors.invalid("orderBy", order, "Only name and creationTimestamp desc are supported.")
    wanted = context.parameters.get("filter", "")
    matches = filters.parse(wanted)
    for disk in sorted(context.seen.disks.values(), key=_order(order), reverse=order != "name"):
        if disk.project == context.project and (not wanted or matches(documents.disk(disk, {}))):
            yield disk


def _order(order: str) -> Callable[[Disk], tuple[str, str]]:
    if order == "name":
        return lambda disk: (disk.scope, disk.name)
    return lambda disk: (disk.created_at.isoformat(), disk.name)


def _scopes(cloud: Cloud) -> list[str]:
    return [*(f"regions/{region}" for region in cloud.regions), *(f"zones/{zone}" for zone in cloud.zones)]


def _warned(scope: str, code: str, message: str) -> documents.Document:
    return {"warning": {"code": code, "message": message, "data": [{"key": "scope", "value": scope}]}}
