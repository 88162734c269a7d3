"""The calls to Azure that the provider makes, on azure-mgmt-compute: errors translated, answers reduced to facts."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from azure.core.exceptions import AzureError, HttpResponseError
from azure.core.pipeline import policies
from azure.core.polling import LROPoller
from azure.core.rest import HttpRequest, HttpResponse
from azure.identity import DefaultAzureCredential
from azure.mgmt.compute import ComputeManagementClient, models
from azure.mgmt.core.policies import ARMChallengeAuthenticationPolicy

from cloudmanager.core.errors import CloudUnavailable, DiskNotFound
from cloudmanager.providers._limiter import Limiter
from cloudmanager.providers.azure import from_sdk
from cloudmanager.providers.azure.errors import MachineGone, is_missing_machine, translate
from cloudmanager.providers.azure.facts import DiskFacts, MachineFacts, Outcome, Place, SnapshotFacts
from cloudmanager.providers.azure.operation import TOO_MANY, Operation, OperationRuns
from cloudmanager.providers.azure.resource_id import ResourceId
from cloudmanager.providers.azure.settings import AzureSettings

Answer = TypeVar("Answer")
_MACHINE, _CHANGE, _OPERATION = "machine", "change", "operation"
_READ, _WRITE = "read", "write"
_REFILLS = {_MACHINE: 12 / 60, _CHANGE: 4 / 60, _OPERATION: 15 / 60}
"""Tokens a second of one machine: https://learn.microsoft.com/azure/virtual-machines/compute-throttling-limits."""


@dataclass(frozen=True)
class Listed:
    """A page of disks, and the link to the next one."""

    disks: tuple[DiskFacts, ...]
    next_link: str | None


class Compute:
    """Thread-safe. Reads are repeated as the settings say; what changes something is asked for once."""

    def __init__(self, settings: AzureSettings, subscription: str) -> None:
        self._settings = settings
        self._limiter = settings.limiter(refills=_REFILLS)
        self._credential = DefaultAzureCredential(managed_identity_client_id=settings.client_id or None)
        self._client = ComputeManagementClient(
            self._credential,
            subscription,
            base_url=settings.endpoint,
            policies=_pipeline(self._credential, settings, self._limiter),
            connection_timeout=settings.request_timeout_seconds,
            read_timeout=settings.request_timeout_seconds,
            connection_verify=str(settings.ca_file) if settings.ca_file else True,
        )

    def machine(self, id: ResourceId) -> MachineFacts:
        """Raises MachineGone."""

        def with_clock(pipeline: Any, model: Any, _: object) -> MachineFacts:
            return from_sdk.machine(model, from_sdk.clock(pipeline.http_response.headers))

        get: Callable[..., MachineFacts] = self._client.virtual_machines.get  # type: ignore[assignment] # `cls` decides
        return self._read(lambda: _of_machine(lambda: get(id.group, id.name, cls=with_clock)), _MACHINE)

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

    def change(
        self,
        machine: ResourceId,
        attached: Sequence[tuple[ResourceId, int]],
        detached: Sequence[ResourceId],
        timeout: float,
        on_accepted: Callable[[str], None],
    ) -> None:
        """Attaches disks at LUNs and detaches others, in one update. Returns when it has ended.

        Without a host cache: it would serve old bytes of a disk that several machines write to. A detach is never
        forced: that is for an operator to decide. `on_accepted` is called with what `outcome` takes. Raises
        MachineGone, and CloudUnavailable when it takes longer than `timeout` seconds.
        """
        none = models.CachingTypes.NONE
        request = models.AttachDetachDataDisksRequest(
            data_disks_to_attach=[
                models.DataDisksToAttach(disk_id=str(disk), lun=lun, caching=none) for disk, lun in attached
            ]
            or None,
            data_disks_to_detach=[models.DataDisksToDetach(disk_id=str(disk)) for disk in detached] or None,
        )
        begin = self._client.virtual_machines.begin_attach_detach_data_disks
        self._run(
            _CHANGE,
            lambda it: _of_machine(lambda: begin(machine.group, machine.name, request, polling=it)),
            timeout,
            on_accepted,
        )

    def change_wait(self) -> float:
        """For how many seconds the next change would have to wait for Azure's limits, as far as they are known."""
        return self._limiter.wait(_CHANGE)

    def changes_left(self) -> float:
        """How many changes Azure would still take now, as far as is known; infinite where it is not."""
        return self._limiter.level(_CHANGE)

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

        return self._read(ask, _OPERATION)

    def make_snapshot(self, id: ResourceId, source: DiskFacts, tags: dict[str, str], timeout: float) -> None:
        properties = models.SnapshotProperties(creation_data=_copy_of(source.id), incremental=True)
        snapshot = models.Snapshot(location=source.place.region, tags=tags, properties=properties)
        snapshots = self._client.snapshots
        self._run(_WRITE, lambda it: snapshots.begin_create_or_update(id.group, id.name, snapshot, polling=it), timeout)

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
        self._run(_WRITE, lambda it: self._client.snapshots.begin_delete(id.group, id.name, polling=it), timeout)

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
        self._run(_WRITE, lambda it: disks.begin_create_or_update(id.group, id.name, disk, polling=it), timeout)

    def delete_disk(self, id: ResourceId, timeout: float) -> None:
        self._run(_WRITE, lambda it: self._client.disks.begin_delete(id.group, id.name, polling=it), timeout)

    def _read(self, call: Callable[[], Answer], kind: str = _READ) -> Answer:
        return self._limiter.read(kind, lambda: _translated(call))

    def _run(
        self,
        kind: str,
        begin: Callable[[Operation], LROPoller[Any]],
        timeout: float,
        on_accepted: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Returns when the operation has succeeded."""
        operation = Operation(
            timeout=timeout, longest_pause=self._settings.poll_seconds, look=self._look_at, on_accepted=on_accepted
        )
        poller = self._limiter.change(kind, lambda: _translated(lambda: begin(operation)), timeout=timeout)
        try:
            _translated(poller.result)
        except OperationRuns as error:
            raise CloudUnavailable(
                f"Azure has not finished within {timeout:.3g} s; it goes on, and is looked at again."
            ) from error

    def _look_at(self, url: str, timeout: float) -> HttpResponse:
        """One look at an operation. Raises Throttled."""

        def ask() -> HttpResponse:
            answer = self._client.send_request(HttpRequest("GET", url))
            if answer.status_code == TOO_MANY:
                raise translate(HttpResponseError(response=answer))
            return answer

        return self._limiter.change(_OPERATION, lambda: _translated(ask), timeout=timeout)


def _runs() -> NoReturn:
    raise CloudUnavailable("An operation that Azure has accepted has not ended yet; it is looked at again.")


def _pipeline(credential: DefaultAzureCredential, settings: AzureSettings, limiter: Limiter) -> list[object]:
    """The SDK's, without what would act on its own: retries, redirects, logging, registering resource providers."""
    return [
        policies.RequestIdPolicy(),
        policies.HeadersPolicy(),
        policies.UserAgentPolicy("cloudmanager"),
        policies.ProxyPolicy(),
        policies.ContentDecodePolicy(),
        ARMChallengeAuthenticationPolicy(credential, f"{settings.endpoint}/.default"),
        _PinnedVersions(settings),
        _RemainingCalls(limiter),
    ]


class _PinnedVersions(policies.SansIOHTTPPolicy[Any, Any]):
    """Asks in the versions that the settings name; the SDK takes one for each call only, and ignores the client's."""

    def __init__(self, settings: AzureSettings) -> None:
        super().__init__()
        self._versions = {
            "virtualmachines": settings.api_version,
            "locations": settings.api_version,  # sizes
            "disks": settings.disk_api_version,
            "snapshots": settings.disk_api_version,
        }

    def on_request(self, request: Any) -> None:
        """Links that Azure gave, to a next page or an operation, have the version of the request before them."""
        url = urlsplit(request.http_request.url)
        kind = url.path.casefold().partition("/microsoft.compute/")[2].partition("/")[0]
        version = self._versions.get(kind)
        if version and "/operations/" not in url.path.casefold() and "/diskoperations/" not in url.path.casefold():
            query = {**dict(parse_qsl(url.query, keep_blank_values=True)), "api-version": version}
            request.http_request.url = urlunsplit(url._replace(query=urlencode(query)))


class _RemainingCalls(policies.SansIOHTTPPolicy[Any, Any]):
    """Tells the limiter how many calls Azure would still take."""

    def __init__(self, limiter: Limiter) -> None:
        super().__init__()
        self._limiter = limiter

    def on_response(self, request: Any, response: Any) -> None:
        """The header names each bucket with what is in it: `Microsoft.Compute/LowCostGetResource;35,…`."""
        text = response.http_response.headers.get("x-ms-ratelimit-remaining-resource", "")
        tokens = [int(number) for number in re.findall(r";(\d+)", text)]
        if tokens:
            self._limiter.remaining(_kind_of(request.http_request.method, request.http_request.url), min(tokens))


def _kind_of(method: str, url: str) -> str:
    path = urlsplit(url).path.casefold()
    if "/virtualmachines/" in path:
        return _CHANGE if method == "POST" else _MACHINE
    return _OPERATION if "/operations/" in path else _READ


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
