"""Compute Engine, as far as attaching disks needs it: `compute/v1` over plain HTTP, and metadata servers."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cloudmanager.testing.cloud import backing
from cloudmanager.testing.cloud.emulator import Emulator, Operation
from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.cloud.gce import documents, errors, instances, permissions, schema
from cloudmanager.testing.cloud.gce.access import AccessTokens
from cloudmanager.testing.cloud.gce.context import RequestContext, page
from cloudmanager.testing.cloud.gce.disks import Disks
from cloudmanager.testing.cloud.gce.instances import Instances
from cloudmanager.testing.cloud.gce.metadata import Metadata
from cloudmanager.testing.cloud.gce.operations import Operations
from cloudmanager.testing.cloud.gce.state import HOST, UNIVERSE, AttachedDisk, Cloud, Disk, Instance, Mode, path_of
from cloudmanager.testing.cloud.guest import Guest
from cloudmanager.testing.cloud.limits import Limit
from cloudmanager.testing.cloud.manual_actions import GIB
from cloudmanager.testing.cloud.wire import HttpServer, Request, Response

PROJECT = "acme-forensics"
PROJECT_NUMBER = 424242424242
_ZONES = ("us-central1-a", "us-central1-b", "europe-west4-a")
HOME = "us-central1-b"
Handler = Callable[[RequestContext], Response]


class Emulation(Emulator[Cloud]):
    """Instances by name, disks and snapshots by path (`projects/P/zones/Z/disks/D`)."""

    kind = "gce"

    def __init__(
        self,
        directory: Path,
        *,
        pace: float = 0.0,
        port: int = 0,
        quota_gb: int | None = None,
        wait_limit_seconds: float = 120.0,
    ) -> None:
        """`wait_limit_seconds`: `operations.wait` answers by then, whether the operation has ended or not."""
        cloud = Cloud(projects={PROJECT: PROJECT_NUMBER}, zones=_ZONES)
        super().__init__(directory, cloud, pace=pace, port=port)
        self.tokens = AccessTokens()
        self.granted: frozenset[str] | None = None
        """The IAM permissions that the caller has, `compute.disks.get`; None: all."""
        self._schema = schema.compute_v1()
        self._metadata: dict[str, HttpServer] = {}
        self.operations = Operations(cloud, self.timeline, self.lock, wait_limit_seconds)
        self.disks = Disks(cloud, self.operations, directory / "disks", quota_gb)
        self.unreachable = self.disks.unreachable
        self.instances = Instances(cloud, self.operations, self._plug, self._unplug)
        self._handlers = self._methods()
        self.credentials_file = self.tokens.write_key(directory / "credentials.json", PROJECT, f"{self.url}/token")

    def stop(self) -> None:
        self.operations.close()
        for server in self._metadata.values():
            server.stop()
        super().stop()

    # What the cloud answers

    def identify(self, request: Request) -> Operation:
        match = self._match(request)
        if match.method.name not in self._handlers:
            raise errors.refusal(501, "notImplemented", f"{match.method.name} is not emulated")
        if not self.tokens.accepts(request.headers.get("Authorization", "")):
            raise errors.unauthenticated()
        return Operation(match.method.name, _target(match, request), match.method.mutates)

    def perform(self, operation: Operation, request: Request, fault: Fault | None) -> Response:
        match = self._match(request)
        body = _body(request) if match.method.body else {}
        if mistake := self._schema.mistake(match, request.query, body):
            raise errors.refusal(400, mistake.reason, mistake.message)
        if match.parameters["project"] not in self.state.projects:
            raise errors.not_found(f"projects/{match.parameters['project']}")
        if self.granted is not None:
            permissions.check(operation.name, body, match.parameters["project"], self.granted)
        context = RequestContext(
            {**request.query, **match.parameters}, body, self.seen(fault), fault, self.largest_page
        )
        return self._once(operation, request, context)

    def limits_of(self, operation: Operation, request: Request) -> Sequence[Limit]:
        """1500 requests a minute for each project, region and group of methods.

        https://cloud.google.com/compute/api-quota (read 2026-11-29). Google refills its buckets at the full
        minute, these refill evenly.
        """
        parameters = self._match(request).parameters
        group = "OperationReads" if "Operations." in operation.name else "Queries" if operation.mutates else "Reads"
        place = str(parameters.get("region") or parameters.get("zone", "global-").rpartition("-")[0])
        return [Limit(group, f"{parameters['project']}/{place}", 1500, 1500)]

    def refuse(self, operation: Operation, fault: Fault) -> Response:
        if fault.effect is Effect.THROTTLE:
            status, reason, message, domain = errors.THROTTLES[fault.form]
            return errors.error(status, reason, message, domain, fault.retry_after)
        status = fault.status or errors.STATUS_OF_REASON.get(fault.code, 400)
        message = fault.message or f"{operation.name}: {fault.code} (injected)"
        return errors.error(status, fault.code, message, retry_after=fault.retry_after)

    def _match(self, request: Request) -> schema.Match:
        match = self._schema.match(request.method, request.path)
        if match is None:
            raise errors.refusal(404, "notFound", f"{request.method} {request.path} is no method of the API")
        return match

    def _once(self, operation: Operation, request: Request, context: RequestContext) -> Response:
        """A repeated `requestId` is answered with the operation that its first use started."""
        handler = self._handlers[operation.name]
        request_id = context.parameters.get("requestId")
        if request_id is None:
            return handler(context)
        _check_request_id(request_id)
        wanted = f"{request.method} {request.raw_path} {request.body.decode()}"
        if request_id in self.state.requests:
            known, path = self.state.requests[request_id]
            if known != wanted:
                raise errors.invalid("requestId", request_id, "The request id was used for another request.")
            return Response.of_json(200, documents.operation(self.state.operations[path]))
        response = handler(context)
        started = json.loads(response.body)["selfLink"].removeprefix(HOST)
        self.state.requests[request_id] = (wanted, started)
        return response

    def _methods(self) -> Mapping[str, Handler]:
        return {
            "instances.get": self.instances.get,
            "instances.attachDisk": self.instances.attach_disk,
            "instances.detachDisk": self.instances.detach_disk,
            "machineTypes.get": self.instances.get_machine_type,
            "disks.get": self.disks.get,
            "disks.list": self.disks.list,
            "disks.aggregatedList": self.disks.aggregated_list,
            "disks.insert": self.disks.insert,
            "disks.delete": self.disks.delete,
            "disks.createSnapshot": self.disks.create_snapshot,
            "regionDisks.get": self.disks.get,
            "regionDisks.list": self.disks.list,
            "regionDisks.insert": self.disks.insert,
            "regionDisks.delete": self.disks.delete,
            "snapshots.insert": self.disks.insert_snapshot,
            "snapshots.get": self.disks.get_snapshot,
            "snapshots.delete": self.disks.delete_snapshot,
            "zones.list": self._list_zones,
            "zoneOperations.get": self.operations.get,
            "zoneOperations.wait": self.operations.wait,
            "zoneOperations.list": self.operations.list,
            "regionOperations.get": self.operations.get,
            "regionOperations.wait": self.operations.wait,
            "globalOperations.get": self.operations.get,
            "globalOperations.wait": self.operations.wait,
        }

    def _list_zones(self, context: RequestContext) -> Response:
        names, token = page(context.seen.zones, context)
        zones = [documents.zone(context.project, name, number) for number, name in enumerate(names, 2000)]
        link = f"{HOST}projects/{context.project}/zones"
        answer: documents.Document = {"kind": "compute#zoneList", "selfLink": link, "items": zones}
        return Response.of_json(200, answer | ({"nextPageToken": token} if token else {}))

    # What is done by hand

    def make_instance(self, name: str, *, location: str = "", machine_type: str = "n2-standard-4") -> Guest:
        """`machine_type` decides about SCSI or NVMe, and how many disks fit."""
        with self.lock:
            instance = Instance(PROJECT, location or HOME, name, self.state.new_id(), machine_type)
            self.state.instances[instance.path] = instance
            guest = self.add_guest(name)
            boot = self.state.disks[self.make_disk(name, location=instance.zone, size_bytes=GIB)]
            self.instances.attach(instance, boot, "persistent-disk-0", Mode.READ_WRITE, boot=True)
            metadata = Metadata(instance, PROJECT_NUMBER, self.tokens, self.faults)
            self._metadata[name] = HttpServer(metadata.answer).start()
        return guest

    def make_disk(
        self,
        name: str,
        *,
        location: str = "",
        size_bytes: int = GIB,
        content: Path | None = None,
        labels: Mapping[str, str] | None = None,
        is_shared: bool = False,
        disk_type: str = "pd-balanced",
    ) -> str:
        """`location` is a zone or a region; sizes are rounded up to GiB. Two zones of a region hold its disks."""
        location = location or HOME
        is_region = location in self.state.regions
        scope = f"regions/{location}" if is_region else f"zones/{location}"
        replicas = tuple(zone for zone in self.state.zones if zone.startswith(f"{location}-"))[:2] if is_region else ()
        size_gb = -(-(content.stat().st_size if content else size_bytes) // GIB)
        kind = "hyperdisk-balanced-high-availability" if is_shared else disk_type
        with self.lock:
            disk = Disk(PROJECT, scope, name, self.state.new_id(), size_gb, kind, dict(labels or {}))
            disk.replica_zones = replicas
            disk.access_mode = "READ_WRITE_MANY" if is_shared else disk.access_mode
            if content is None:
                backing.make(self.disks.file(disk.path), disk.size_bytes)
            else:
                backing.copy(content, self.disks.file(disk.path), disk.size_bytes)
            self.state.disks[disk.path] = disk
        return disk.path

    def attach_by_hand(self, disk: str, instance: str, *, read_only: bool = False, slot: str = "") -> None:
        with self.lock:
            holder = self._instance(instance)
            name = slot or f"by-hand-{len(holder.disks)}"
            self.instances.attach(holder, self._disk(disk), name, Mode.READ_ONLY if read_only else Mode.READ_WRITE)

    def detach_by_hand(self, disk: str, instance: str) -> None:
        with self.lock:
            holder = self._instance(instance)
            if attached := holder.attached(self._disk(disk).path):
                self.instances.detach(holder, attached)

    def delete_disk(self, disk: str) -> None:
        with self.lock:
            gone = self._disk(disk)
            for holder, attached in list(self.state.holders(gone.path)):
                self.instances.detach(holder, attached)
            self.disks.forget(gone)

    def recreate_disk(self, disk: str) -> str:
        """With a number of its own: https://cloud.google.com/compute/docs/reference/rest/v1/disks (`id`)."""
        with self.lock:
            old = self._disk(disk)
            self.delete_disk(disk)
            new = replace(old, id=self.state.new_id(), created_at=datetime.now(UTC))
            backing.make(self.disks.file(new.path), new.size_bytes)
            self.state.disks[new.path] = new
        return new.path

    def rename_disk(self, disk: str, name: str) -> None:  # noqa: ARG002 - see the interface
        raise ValueError("Compute Engine renames no disk: its API has no such method")

    def stop_instance(self, instance: str) -> None:
        with self.lock:
            machine = self._instance(instance)
            for attached in machine.disks:
                self._unplug(machine, attached)
            machine.status = "TERMINATED"

    def start_instance(self, instance: str) -> None:
        with self.lock:
            machine = self._instance(instance)
            machine.status = "RUNNING"
            for attached in machine.disks:
                self._plug(machine, self.state.disks[attached.source], attached)

    def rename_instance(self, instance: str, name: str) -> None:
        """`instances.setName` takes one that is stopped only."""
        with self.lock:
            machine = self._instance(instance)
            if machine.status != "TERMINATED":
                raise ValueError(f"{instance} must be stopped before it is renamed")
            self.rename_guest(instance, name)
            self._metadata[name] = self._metadata.pop(instance)
            del self.state.instances[machine.path]
            machine.name = name
            self.state.instances[machine.path] = machine

    def delete_instance(self, instance: str) -> None:
        with self.lock:
            del self.state.instances[self._instance(instance).path]
            self.guests[instance].close()
            self._metadata.pop(instance).stop()

    def holders(self, disk: str) -> list[str]:
        with self.lock:
            path = self._disk(disk).path
            attached = [holder.name for holder, _ in self.state.holders(path)]
            busy = [op.target.rpartition("/")[2] for op in self.state.running(path)]
            return sorted({*attached, *busy})

    def backing(self, disk: str) -> Path:
        return self.disks.file(self._disk(disk).path)

    def provider_settings(self, instance: str) -> dict[str, object]:
        guest = self.guests[instance]
        return {
            "type": "gce",
            "endpoint": self.url,
            "metadata_host": self.metadata_host(instance),
            "dev_root": str(guest.dev),
            "sys_root": str(guest.sys),
            "lock_dir": str(self.directory / "locks"),
        }

    def environment(self, instance: str) -> dict[str, str]:
        host = self.metadata_host(instance)
        return {"GCE_METADATA_HOST": host, "GCE_METADATA_IP": host, "GOOGLE_CLOUD_UNIVERSE_DOMAIN": UNIVERSE}

    def metadata_host(self, instance: str) -> str:
        server = self._metadata[instance]
        return f"{server.host}:{server.port}"

    def _instance(self, name: str) -> Instance:
        found = next((item for item in self.state.instances.values() if item.name == name), None)
        if found is None:
            raise LookupError(f"there is no instance {name}")
        return found

    def _disk(self, name: str) -> Disk:
        path = path_of(name, PROJECT) or ""
        if path not in self.state.disks:
            raise LookupError(f"there is no disk {name}")
        return self.state.disks[path]

    def _plug(self, instance: Instance, disk: Disk, attached: AttachedDisk) -> None:
        if instance.status != "RUNNING":
            return
        instances.plug(self.guests[instance.name], instance, attached, self.disks.file(disk.path))

    def _unplug(self, instance: Instance, attached: AttachedDisk) -> None:
        if instance.status != "RUNNING":
            return
        self.guests[instance.name].unplug(attached.device_name)


def _target(match: schema.Match, request: Request) -> str:
    """The resource that a request is about, for faults to match on: the disk of an attach, else the path's own."""
    names = ("disk", "snapshot", "instance", "operation")
    named = next((match.parameters[name] for name in names if name in match.parameters), "")
    if match.method.name == "instances.attachDisk":
        try:
            return str(request.json().get("source", named)).rpartition("/")[2]
        except (ValueError, AttributeError):
            return named
    return request.query.get("deviceName", named)


def _body(request: Request) -> Any:
    try:
        return request.json()
    except ValueError:
        raise errors.refusal(400, "parseError", "Parse Error") from None


def _check_request_id(text: str) -> None:
    try:
        is_zero = uuid.UUID(text).int == 0
    except ValueError:
        is_zero = True
    if is_zero:
        raise errors.invalid("requestId", text, "Must be a valid UUID that is not zero.")
