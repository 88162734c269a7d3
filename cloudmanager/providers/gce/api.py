"""The calls of the Compute Engine API that are needed here, with bounded time, retries and our own errors.

The SDK's own polling is not used: it asks Google's public endpoint, whichever endpoint is configured, and does not
raise for an operation that failed.
"""

import os
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import google.auth
from google.api_core.client_options import ClientOptions
from google.auth.credentials import Credentials
from google.cloud import compute_v1

from cloudmanager.core.errors import CloudManagerError, CloudUnavailable, ConfigurationError
from cloudmanager.providers._waiting import Deadline
from cloudmanager.providers.gce.errors import NOT_FOUND, of_operation, translated
from cloudmanager.providers.gce.resource_id import ResourceId
from cloudmanager.providers.gce.settings import GceSettings

Answer = TypeVar("Answer")
Client = TypeVar("Client")
_WAITS = ("zoneOperations.wait", "globalOperations.wait")
"""Answered when the operation ends."""
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_UNIVERSE_VARIABLE = "GOOGLE_CLOUD_UNIVERSE_DOMAIN"
DONE = compute_v1.Operation.Status.DONE
_UNREACHABLE = "UNREACHABLE"
_LONGEST_WAIT_SECONDS = 130.0
"""`operations.wait` answers within two minutes."""


@dataclass(frozen=True)
class ListRequest:
    """What a list is asked for; the names are the API's."""

    filter: str
    page_token: str
    max_results: int


@dataclass(frozen=True)
class DiskPage:
    items: Sequence[compute_v1.Disk]
    next_page_token: str
    """Empty at the end."""
    unreachable: Sequence[str] = ()
    """Zones and regions that did not answer: their disks are missing."""


class Compute:
    """Thread-safe: the SDK's clients are. Clients and credentials are made when they are first used."""

    def __init__(self, settings: GceSettings) -> None:
        self._settings = settings
        self._limiter = settings.limiter(blocking=_WAITS)

    def disk(self, disk: ResourceId) -> compute_v1.Disk:
        """Raises DiskNotFound."""
        if disk.is_regional:
            regional = compute_v1.GetRegionDiskRequest(project=disk.project, region=disk.location, disk=disk.name)
            return self._call("regionDisks.get", self._region_disks.get, regional)
        zonal = compute_v1.GetDiskRequest(project=disk.project, zone=disk.location, disk=disk.name)
        return self._call("disks.get", self._disks.get, zonal)

    def instance(self, instance: ResourceId) -> compute_v1.Instance | None:
        """None when it does not exist."""
        request = compute_v1.GetInstanceRequest(
            project=instance.project, zone=instance.location, instance=instance.name
        )
        try:
            return self._call("instances.get", self._instances.get, request)
        except CloudManagerError as error:
            if error.cloud_code != NOT_FOUND:
                raise
            return None

    def max_disks(self, instance: ResourceId, machine_type: str) -> int | None:
        """How many disks a machine of that type may have, with the boot disk; None where Google does not say."""
        request = compute_v1.GetMachineTypeRequest(
            project=instance.project, zone=instance.location, machine_type=machine_type
        )
        return self._call("machineTypes.get", self._machine_types.get, request).maximum_persistent_disks or None

    def attach(self, instance: ResourceId, disk: compute_v1.AttachedDisk, request_id: str) -> compute_v1.Operation:
        request = compute_v1.AttachDiskInstanceRequest(
            project=instance.project,
            zone=instance.location,
            instance=instance.name,
            attached_disk_resource=disk,
            request_id=request_id,
        )
        return self._call("instances.attachDisk", self._instances.attach_disk_unary, request)

    def detach(self, instance: ResourceId, device_name: str) -> compute_v1.Operation:
        request = compute_v1.DetachDiskInstanceRequest(
            project=instance.project,
            zone=instance.location,
            instance=instance.name,
            device_name=device_name,
            request_id=str(uuid.uuid4()),
        )
        return self._call("instances.detachDisk", self._instances.detach_disk_unary, request)

    def pending(self, instance: ResourceId, link: str) -> Sequence[compute_v1.Operation]:
        """The operations on an instance that have not ended; `link` is its self-link."""
        request = compute_v1.ListZoneOperationsRequest(
            project=instance.project,
            zone=instance.location,
            filter=f'(targetLink = "{link}") (status != "DONE")',
        )
        return list(self._call("zoneOperations.list", _first_page(self._zone_operations.list), request).items)

    def was_asked(self, instance: ResourceId, link: str, request_ids: Collection[str]) -> bool:
        """Compute Engine knows of an attach to the instance that was asked for under one of the ids and has not failed.

        "clientOperationId: the value of requestId if you provided it" (discovery document of compute.v1). Operations
        that have ended are kept for some days at least; the newest 500 of the instance are looked at.
        """
        request = compute_v1.ListZoneOperationsRequest(
            project=instance.project,
            zone=instance.location,
            filter=f'(targetLink = "{link}") (operationType = "attachDisk")',
            order_by="creationTimestamp desc",
            max_results=500,
        )
        found = self._call("zoneOperations.list", _first_page(self._zone_operations.list), request).items
        return any(each.client_operation_id in request_ids and not each.error.errors for each in found)

    def finish(self, operation: compute_v1.Operation, deadline: Deadline, doing: str) -> None:
        """Returns when the operation has succeeded. Raises what it failed with, CloudUnavailable at the deadline."""
        ended = self.ended(operation, deadline)
        if ended is None:
            raise CloudUnavailable(
                f"Compute Engine has been {doing} for {deadline.seconds:g} s and is not done; it is looked at again."
            )
        if error := of_operation(ended):
            raise error

    def ended(self, operation: compute_v1.Operation, deadline: Deadline) -> compute_v1.Operation | None:
        """The operation when it has ended, None when it still runs at the deadline."""
        while operation.status != DONE:
            if not deadline.left:
                return None
            operation = self._wait(operation, deadline)
        return operation

    def disks_everywhere(self, project: str, listing: ListRequest) -> DiskPage:
        """One page of the disks of every zone and region."""
        request = compute_v1.AggregatedListDisksRequest(project=project, **vars(listing))
        answer = self._call("disks.aggregatedList", _first_page(self._disks.aggregated_list), request)
        found = [disk for scope in answer.items.values() for disk in scope.disks]
        silent = [name for name, scope in answer.items.items() if scope.warning.code == _UNREACHABLE]
        return DiskPage(found, answer.next_page_token, list(dict.fromkeys([*answer.unreachables, *silent])))

    def disks_of_zone(self, project: str, zone: str, listing: ListRequest) -> DiskPage:
        request = compute_v1.ListDisksRequest(project=project, zone=zone, **vars(listing))
        answer = self._call("disks.list", _first_page(self._disks.list), request)
        return DiskPage(answer.items, answer.next_page_token)

    def disks_of_region(self, project: str, region: str, listing: ListRequest) -> DiskPage:
        request = compute_v1.ListRegionDisksRequest(project=project, region=region, **vars(listing))
        answer = self._call("regionDisks.list", _first_page(self._region_disks.list), request)
        return DiskPage(answer.items, answer.next_page_token)

    def snapshot(self, snapshot: ResourceId) -> compute_v1.Snapshot:
        """Raises DiskNotFound."""
        request = compute_v1.GetSnapshotRequest(project=snapshot.project, snapshot=snapshot.name)
        return self._call("snapshots.get", self._snapshots.get, request)

    def make_snapshot(self, project: str, snapshot: compute_v1.Snapshot) -> compute_v1.Operation:
        request = compute_v1.InsertSnapshotRequest(
            project=project, snapshot_resource=snapshot, request_id=str(uuid.uuid4())
        )
        return self._call("snapshots.insert", self._snapshots.insert_unary, request)

    def make_disk(self, project: str, zone: str, disk: compute_v1.Disk) -> compute_v1.Operation:
        request = compute_v1.InsertDiskRequest(
            project=project, zone=zone, disk_resource=disk, request_id=str(uuid.uuid4())
        )
        return self._call("disks.insert", self._disks.insert_unary, request)

    def delete_disk(self, disk: ResourceId) -> compute_v1.Operation:
        """Of a zone: what is made here is never regional."""
        request = compute_v1.DeleteDiskRequest(project=disk.project, zone=disk.location, disk=disk.name)
        return self._call("disks.delete", self._disks.delete_unary, request)

    def delete_snapshot(self, snapshot: ResourceId) -> compute_v1.Operation:
        request = compute_v1.DeleteSnapshotRequest(project=snapshot.project, snapshot=snapshot.name)
        return self._call("snapshots.delete", self._snapshots.delete_unary, request)

    def _wait(self, operation: compute_v1.Operation, deadline: Deadline) -> compute_v1.Operation:
        """Asks once, and until the operation ends or Google's patience does; pauses where the answer came early."""
        asked_at = time.monotonic()
        try:
            operation = self._wait_once(operation, min(deadline.left + 0.1, _LONGEST_WAIT_SECONDS))
        except CloudUnavailable:
            if not deadline.left:
                return operation
        if operation.status != DONE:
            pause = self._settings.poll_seconds - (time.monotonic() - asked_at)
            time.sleep(max(0.0, min(pause, deadline.left)))
        return operation

    def _wait_once(self, operation: compute_v1.Operation, timeout: float) -> compute_v1.Operation:
        project = ResourceId.from_link(operation.self_link).project
        if operation.zone:
            zone = operation.zone.rpartition("/")[2]
            zonal = compute_v1.WaitZoneOperationRequest(project=project, zone=zone, operation=operation.name)
            return self._call("zoneOperations.wait", self._zone_operations.wait, zonal, timeout)
        everywhere = compute_v1.WaitGlobalOperationRequest(project=project, operation=operation.name)
        return self._call("globalOperations.wait", self._global_operations.wait, everywhere, timeout)

    def _call(self, kind: str, method: Callable[..., Answer], request: object, timeout: float | None = None) -> Answer:
        """Calls a method of a client; the SDK's own retries, which hide what they retried, are off."""
        seconds = timeout or self._settings.request_timeout_seconds

        def call() -> Answer:
            with translated():
                return method(request=request, retry=None, timeout=seconds)

        return self._limiter.read(kind, call, timeout=seconds)

    @cached_property
    def _credentials(self) -> Credentials:
        with translated():
            credentials, _ = google.auth.default(scopes=[_SCOPE])
        return credentials

    @cached_property
    def universe(self) -> str:
        """The domain of the Google Cloud that is used: a sovereign one has its own. Raises ConfigurationError.

        The SDK of Compute Engine does not compare it with that of the credentials.
        """
        chosen = self._settings.universe_domain or os.environ.get(_UNIVERSE_VARIABLE, "")
        with translated():
            own = str(self._credentials.universe_domain)
        if chosen and chosen != own:
            raise ConfigurationError(
                f"The universe domain is {chosen}, and the credentials are of {own}: set universe_domain to that, or "
                f"use credentials of {chosen}."
            )
        return own

    def _client(self, kind: type[Client]) -> Client:
        options = ClientOptions(api_endpoint=self._settings.endpoint or None, universe_domain=self.universe)
        make: Callable[..., Client] = kind
        with translated():
            return make(credentials=self._credentials, client_options=options)

    @cached_property
    def _instances(self) -> compute_v1.InstancesClient:
        return self._client(compute_v1.InstancesClient)

    @cached_property
    def _machine_types(self) -> compute_v1.MachineTypesClient:
        return self._client(compute_v1.MachineTypesClient)

    @cached_property
    def _disks(self) -> compute_v1.DisksClient:
        return self._client(compute_v1.DisksClient)

    @cached_property
    def _region_disks(self) -> compute_v1.RegionDisksClient:
        return self._client(compute_v1.RegionDisksClient)

    @cached_property
    def _snapshots(self) -> compute_v1.SnapshotsClient:
        return self._client(compute_v1.SnapshotsClient)

    @cached_property
    def _zone_operations(self) -> compute_v1.ZoneOperationsClient:
        return self._client(compute_v1.ZoneOperationsClient)

    @cached_property
    def _global_operations(self) -> compute_v1.GlobalOperationsClient:
        return self._client(compute_v1.GlobalOperationsClient)


def _first_page(method: Callable[..., Any]) -> Callable[..., Any]:
    """Of what a list method answers: the pager has fetched that page, and would go on by itself."""
    return lambda **arguments: next(iter(method(**arguments).pages))
