"""The calls to Azure that the provider makes, on azure-mgmt-compute: errors translated, answers reduced to facts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from azure.core.exceptions import AzureError, HttpResponseError
from azure.core.pipeline import policies
from azure.core.rest import HttpRequest
from azure.identity import DefaultAzureCredential
from azure.mgmt.compute import ComputeManagementClient, models
from azure.mgmt.core.policies import ARMChallengeAuthenticationPolicy

from cloudmanager.core.errors import CloudUnavailable, DiskNotFound
from cloudmanager.providers._retrying import retrying
from cloudmanager.providers.azure import from_sdk
from cloudmanager.providers.azure.errors import MachineGone, is_missing_machine, translate
from cloudmanager.providers.azure.facts import DiskFacts, MachineFacts, Outcome, Place, SnapshotFacts
from cloudmanager.providers.azure.operation import Operation, OperationRuns
from cloudmanager.providers.azure.resource_id import ResourceId
from cloudmanager.providers.azure.settings import AzureSettings

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Listed:
    """A page of disks, and the link to the next one."""

    disks: tuple[DiskFacts, ...]
    next_link: str | None


class Compute:
    """Thread-safe. Reads are repeated as the settings say; what changes something is asked for once."""

    def __init__(self, settings: AzureSettings, subscription: str) -> None:
        self._settings = settings
        self._credential = DefaultAzureCredential(managed_identity_client_id=settings.client_id or None)
        self._client = ComputeManagementClient(
            self._credential,
            subscription,
            base_url=settings.endpoint,
            policies=_pipeline(self._credential, settings.endpoint),
            connection_timeout=settings.request_timeout_seconds,
            read_timeout=settings.request_timeout_seconds,
            connection_verify=str(settings.ca_file) if settings.ca_file else True,
        )

    def machine(self, id: ResourceId) -> MachineFacts:
        """Raises MachineGone."""

        def with_clock(pipeline: Any, model: Any, _: object) -> MachineFacts:
            return from_sdk.machine(model, from_sdk.clock(pipeline.http_response.headers))

        get: Callable[..., MachineFacts] = self._client.virtual_machines.get  # type: ignore[assignment] # `cls` decides
        return self._read(lambda: _of_machine(lambda: get(id.group, id.name, cls=with_clock)))

    def disk(self, id: ResourceId) -> DiskFacts:
        """Raises DiskNotFound."""
        return self._read(lambda: from_sdk.disk(self._client.disks.get(id.group, id.name)))

    def find_disk(self, id: ResourceId) -> DiskFacts | None:
        """None when there is none, for certain."""
        try:
            return self.disk(id)
        except DiskNotFound:
            return None

    def list_disks(self, group: str | None, link: str | None) -> Listed:
        """One page: of a resource group, or of the whole subscription. `link` continues an earlier page."""

        def ask() -> Listed:
            disks = self._client.disks
            listing = disks.list_by_resource_group(group) if group else disks.list()
            pages = listing.by_page(continuation_token=link)
            found = tuple(from_sdk.disk(disk) for disk in next(pages))
            return Listed(found, pages.continuation_token)  # type: ignore[attr-defined] # azure-core declares less

        return self._read(ask)

    @property
    def max_disks(self) -> int | None:
        """By the settings; None where they do not say."""
        return self._settings.max_disks or None

    def max_data_disks(self, machine: MachineFacts) -> int | None:
        """Of the machine's size; None where Azure does not say."""
        sizes = self._read(lambda: list(self._client.virtual_machine_sizes.list(machine.place.region)))
        return next((size.max_data_disk_count for size in sizes if size.name == machine.size), None)

    def attach(
        self, machine: ResourceId, disk: ResourceId, lun: int, timeout: float, on_accepted: Callable[[str], None]
    ) -> None:
        """Without a host cache: it would serve old bytes of a disk that several machines write to.

        `on_accepted` is called with what `outcome` takes. Raises MachineGone, and CloudUnavailable when it takes
        longer than `timeout` seconds; so do the other changes.
        """
        wanted = models.DataDisksToAttach(disk_id=str(disk), lun=lun, caching=models.CachingTypes.NONE)
        request = models.AttachDetachDataDisksRequest(data_disks_to_attach=[wanted])
        self._change(machine, request, timeout, on_accepted)

    def outcome(self, operation: str) -> Outcome | None:
        """Of an operation by its path and query; None where Azure does not know it, or not any more.

        Raises CloudUnavailable while it runs.
        """
        url = self._settings.endpoint + operation

        def ask() -> Outcome | None:
            answer = self._client.send_request(HttpRequest("GET", url))
            if answer.status_code in (404, 410):
                return None
            answer.raise_for_status()
            return from_sdk.outcome(answer.json()) or _runs()

        return self._read(ask)

    def detach(self, machine: ResourceId, disk: ResourceId, timeout: float) -> None:
        """Never forced: that is for an operator to decide."""
        leaving = models.DataDisksToDetach(disk_id=str(disk))
        request = models.AttachDetachDataDisksRequest(data_disks_to_detach=[leaving])
        self._change(machine, request, timeout)

    def make_snapshot(self, id: ResourceId, source: DiskFacts, tags: dict[str, str], timeout: float) -> None:
        properties = models.SnapshotProperties(creation_data=_copy_of(source.id), incremental=True)
        snapshot = models.Snapshot(location=source.place.region, tags=tags, properties=properties)
        snapshots = self._client.snapshots
        self._run(
            lambda it: snapshots.begin_create_or_update(id.group, id.name, snapshot, polling=it).result(), timeout
        )

    def snapshot(self, id: ResourceId) -> SnapshotFacts:
        """Raises DiskNotFound."""
        return self._read(lambda: from_sdk.snapshot(self._client.snapshots.get(id.group, id.name)))

    def find_snapshot(self, id: ResourceId) -> SnapshotFacts | None:
        """None when there is none, for certain."""
        try:
            return self.snapshot(id)
        except DiskNotFound:
            return None

    def delete_snapshot(self, id: ResourceId, timeout: float) -> None:
        self._run(lambda it: self._client.snapshots.begin_delete(id.group, id.name, polling=it).result(), timeout)

    def make_disk(
        self, id: ResourceId, source: SnapshotFacts, place: Place, tags: dict[str, str], timeout: float
    ) -> None:
        disk = models.Disk(
            location=place.region,
            zones=[place.zone] if place.zone else None,
            sku=models.DiskSku(name=self._settings.restored_sku),
            tags=tags,
            properties=models.DiskProperties(creation_data=_copy_of(source.id)),
        )
        disks = self._client.disks
        self._run(lambda it: disks.begin_create_or_update(id.group, id.name, disk, polling=it).result(), timeout)

    def delete_disk(self, id: ResourceId, timeout: float) -> None:
        self._run(lambda it: self._client.disks.begin_delete(id.group, id.name, polling=it).result(), timeout)

    def _read(self, call: Callable[[], Answer]) -> Answer:
        settings = self._settings
        return retrying(
            lambda: _translated(call), attempts=settings.retry_attempts, timeout=settings.request_timeout_seconds
        )

    def _change(
        self,
        machine: ResourceId,
        request: models.AttachDetachDataDisksRequest,
        timeout: float,
        on_accepted: Callable[[str], None] = lambda _: None,
    ) -> None:
        begin = self._client.virtual_machines.begin_attach_detach_data_disks
        self._run(
            lambda it: _of_machine(lambda: begin(machine.group, machine.name, request, polling=it).result()),
            timeout,
            on_accepted,
        )

    def _run(
        self,
        call: Callable[[Operation], object],
        timeout: float,
        on_accepted: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Returns when the operation has succeeded."""
        operation = Operation(timeout=timeout, longest_pause=self._settings.poll_seconds, on_accepted=on_accepted)
        try:
            _translated(lambda: call(operation))
        except OperationRuns as error:
            raise CloudUnavailable(
                f"Azure has not finished within {timeout:.3g} s; it goes on, and is looked at again."
            ) from error


def _runs() -> NoReturn:
    raise CloudUnavailable("An operation that Azure has accepted has not ended yet; it is looked at again.")


def _pipeline(credential: DefaultAzureCredential, endpoint: str) -> list[object]:
    """The SDK's, without what would act on its own: retries, redirects, logging, registering resource providers."""
    return [
        policies.RequestIdPolicy(),
        policies.HeadersPolicy(),
        policies.UserAgentPolicy("cloudmanager"),
        policies.ProxyPolicy(),
        policies.ContentDecodePolicy(),
        ARMChallengeAuthenticationPolicy(credential, f"{endpoint}/.default"),
    ]


def _translated(call: Callable[[], Answer]) -> Answer:
    try:
        return call()
    except AzureError as error:
        raise translate(error) from error


def _of_machine(call: Callable[[], Answer]) -> Answer:
    """Raises MachineGone, which is no error of the SDK, when it is the machine that is not there."""
    try:
        return call()
    except HttpResponseError as error:
        if is_missing_machine(error):
            raise MachineGone from error
        raise


def _copy_of(source: ResourceId) -> models.CreationData:
    return models.CreationData(create_option=models.DiskCreateOption.COPY, source_resource_id=str(source))
