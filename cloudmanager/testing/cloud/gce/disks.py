"""`disks`, `regionDisks` and `snapshots`."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cloudmanager.testing.cloud import backing
from cloudmanager.testing.cloud.gce import documents, filters, refusals
from cloudmanager.testing.cloud.gce.asked import Asked
from cloudmanager.testing.cloud.gce.links import path_of
from cloudmanager.testing.cloud.gce.operations import Operations
from cloudmanager.testing.cloud.gce.pages import page
from cloudmanager.testing.cloud.gce.state import HOST, Cloud, Disk, OperationError, Snapshot
from cloudmanager.testing.cloud.wire import Response

INSERT_SECONDS = 5.0
DELETE_SECONDS = 2.0
SNAPSHOT_SECONDS = 20.0
UNREACHABLE = "UNREACHABLE"
NO_RESULTS = "NO_RESULTS_ON_PAGE"


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

    def get(self, asked: Asked) -> Response:
        return Response.of_json(200, documents.disk(_find(asked, asked.seen), asked.seen.users()))

    def list(self, asked: Asked) -> Response:
        self._check_scope(asked)
        prefix = f"projects/{asked.project}/{asked.scope}/"
        found = [disk for disk in _matching(asked) if disk.path.startswith(prefix)]
        items, token = page(found, asked)
        users = asked.seen.users()
        answer: documents.Document = {
            "kind": "compute#diskList",
            "selfLink": f"{HOST}{prefix}disks",
            "items": [documents.disk(disk, users) for disk in items],
        }
        return Response.of_json(200, answer | ({"nextPageToken": token} if token else {}))

    def aggregated_list(self, asked: Asked) -> Response:
        """Every zone and region is named on every page, with a warning where the page has nothing of it."""
        items, token = page(list(_matching(asked)), asked)
        users = asked.seen.users()
        found: dict[str, list[documents.Document]] = {scope: [] for scope in _scopes(asked.seen)}
        for disk in items:
            found[disk.scope].append(documents.disk(disk, users))
        scopes = {scope: self._shown(scope, disks) for scope, disks in found.items()}
        link = f"{HOST}projects/{asked.project}/aggregated/disks"
        answer: documents.Document = {"kind": "compute#diskAggregatedList", "selfLink": link, "items": scopes}
        return Response.of_json(200, answer | ({"nextPageToken": token} if token else {}))

    def _shown(self, scope: str, disks: Sequence[documents.Document]) -> documents.Document:
        if scope in self.unreachable:
            return _warned(scope, UNREACHABLE, f"The scope '{scope}' is not reachable.")
        nothing = f"There are no results for scope '{scope}' on this page."
        return {"disks": disks} if disks else _warned(scope, NO_RESULTS, nothing)

    def insert(self, asked: Asked) -> Response:
        self._check_scope(asked)
        disk = self._new_disk(asked)
        if disk.path in self._cloud.disks:
            raise refusals.exists(disk.path)
        snapshot = self._source_snapshot(asked)
        if snapshot is not None:
            disk.source_snapshot = snapshot.path
            disk.size_gb = disk.size_gb or snapshot.size_gb
        if disk.size_gb < (snapshot.size_gb if snapshot else 1):
            raise refusals.invalid("resource.sizeGb", str(disk.size_gb), "The disk is too small.")
        self._cloud.disks[disk.path] = disk
        return self._operations.start(
            asked, "insert", (disk.path, disk.id), lambda: self._fill(disk, snapshot), seconds=INSERT_SECONDS
        )

    def delete(self, asked: Asked) -> Response:
        disk = _find(asked, self._cloud)
        if holder := next(self._cloud.holders(disk.path), None):
            raise refusals.in_use(disk.path, holder[0].path)
        return self._operations.start(
            asked, "delete", (disk.path, disk.id), lambda: self.forget(disk), seconds=DELETE_SECONDS, disk=disk.path
        )

    def forget(self, disk: Disk) -> None:
        self._cloud.disks.pop(disk.path, None)
        self.file(disk.path).unlink(missing_ok=True)

    def create_snapshot(self, asked: Asked) -> Response:
        return self._snapshot(asked, _find(asked, self._cloud))

    def insert_snapshot(self, asked: Asked) -> Response:
        source = path_of(asked.body.get("sourceDisk", ""), asked.project)
        if source is None:
            raise refusals.invalid("resource.sourceDisk", asked.body.get("sourceDisk", ""), "The URL is malformed.")
        if source not in self._cloud.disks:
            raise refusals.not_found(source)
        return self._snapshot(asked, self._cloud.disks[source])

    def get_snapshot(self, asked: Asked) -> Response:
        return Response.of_json(200, documents.snapshot(_find_snapshot(asked, asked.seen)))

    def delete_snapshot(self, asked: Asked) -> Response:
        snapshot = _find_snapshot(asked, self._cloud)

        def forget() -> None:
            self._cloud.snapshots.pop(snapshot.path, None)
            self.file(snapshot.path).unlink(missing_ok=True)

        return self._operations.start(asked, "delete", (snapshot.path, snapshot.id), forget, seconds=DELETE_SECONDS)

    def _snapshot(self, asked: Asked, disk: Disk) -> Response:
        """The bytes are those of this moment; READY is when they are stored."""
        labels = dict(asked.body.get("labels", {}))
        snapshot = Snapshot(
            asked.project, asked.body["name"], self._cloud.new_id(), disk.path, disk.id, disk.size_gb, labels
        )
        if snapshot.path in self._cloud.snapshots:
            raise refusals.exists(snapshot.path)
        backing.copy(self.file(disk.path), self.file(snapshot.path))
        self._cloud.snapshots[snapshot.path] = snapshot
        snapshot.status = "UPLOADING"

        def store() -> None:
            snapshot.status = "READY"

        return self._operations.start(asked, "createSnapshot", (disk.path, disk.id), store, seconds=SNAPSHOT_SECONDS)

    def _new_disk(self, asked: Asked) -> Disk:
        body = asked.body
        size_gb = int(body.get("sizeGb", 0 if "sourceSnapshot" in body else 500))
        return Disk(
            asked.project,
            asked.scope,
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

    def _source_snapshot(self, asked: Asked) -> Snapshot | None:
        given = asked.body.get("sourceSnapshot")
        if given is None:
            return None
        path = path_of(given, asked.project)
        if path is None:
            raise refusals.invalid("resource.sourceSnapshot", given, "The URL is malformed.")
        if path not in self._cloud.snapshots:
            raise refusals.not_found(path)
        if self._cloud.snapshots[path].status != "READY":
            raise refusals.not_ready(path)
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

    def _check_scope(self, asked: Asked) -> None:
        kind, _, name = asked.scope.partition("/")
        if name not in (self._cloud.zones if kind == "zones" else self._cloud.regions):
            raise refusals.not_found(f"projects/{asked.project}/{asked.scope}")


def _find(asked: Asked, cloud: Cloud) -> Disk:
    path = asked.path("disks", "disk")
    if path in cloud.disks:
        return cloud.disks[path]
    if re.fullmatch(r"\d+", asked.parameters["disk"]):
        prefix = path.rpartition("/")[0]
        for disk in cloud.disks.values():
            if str(disk.id) == asked.parameters["disk"] and disk.path.startswith(prefix):
                return disk
    raise refusals.not_found(path)


def _find_snapshot(asked: Asked, cloud: Cloud) -> Snapshot:
    path = asked.path("snapshots", "snapshot")
    if path not in cloud.snapshots:
        raise refusals.not_found(path)
    return cloud.snapshots[path]


def _matching(asked: Asked) -> Iterator[Disk]:
    """The project's disks that the filter lets through, in the order of scope and name."""
    order = asked.parameters.get("orderBy", "name")
    if order not in ("name", "creationTimestamp desc"):
        raise refusals.invalid("orderBy", order, "Only name and creationTimestamp desc are supported.")
    wanted = asked.parameters.get("filter", "")
    matches = filters.parse(wanted)
    for disk in sorted(asked.seen.disks.values(), key=_order(order), reverse=order != "name"):
        if disk.project == asked.project and (not wanted or matches(documents.disk(disk, {}))):
            yield disk


def _order(order: str) -> Callable[[Disk], tuple[str, str]]:
    if order == "name":
        return lambda disk: (disk.scope, disk.name)
    return lambda disk: (disk.created_at.isoformat(), disk.name)


def _scopes(cloud: Cloud) -> list[str]:
    return [*(f"regions/{region}" for region in cloud.regions), *(f"zones/{zone}" for zone in cloud.zones)]


def _warned(scope: str, code: str, message: str) -> documents.Document:
    return {"warning": {"code": code, "message": message, "data": [{"key": "scope", "value": scope}]}}
