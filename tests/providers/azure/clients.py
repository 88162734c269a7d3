"""Two clients of an emulated Azure: the SDK's own, and plain requests for what the SDK would not send."""

import ssl
from collections.abc import Callable

import httpx
import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.compute.models import (
    AttachDetachDataDisksRequest,
    DataDisk,
    DataDisksToAttach,
    DataDisksToDetach,
    StorageProfile,
)

from cloudmanager.core.model import Access, Attachment, AttachPlan, Disk, DiskId
from cloudmanager.core.plugins import Plugins, Provider
from cloudmanager.providers import azure as azure_plugin
from cloudmanager.testing.cloud.azure import AzureEmulation
from cloudmanager.testing.cloud.azure.accounts import Identity
from cloudmanager.testing.cloud.azure.emulation import GROUP, SUBSCRIPTION

COMPUTE = "/providers/Microsoft.Compute"
COMPUTE_VERSION = "2026-04-01"
DISK_VERSION = "2026-03-02"


class GivenToken:
    """A credential that has one token."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_token(self, *_: str, **__: object) -> AccessToken:
        return AccessToken(self._token, 2**33)


class Sdk:
    """The calls that the tests make, on azure-mgmt-compute."""

    def __init__(
        self, cloud: AzureEmulation, identity: Identity | None = None, subscription: str = SUBSCRIPTION
    ) -> None:
        self.client = ComputeManagementClient(
            GivenToken(cloud.accounts.issue(identity or Identity())),
            subscription,
            base_url=cloud.url,
            connection_verify=str(cloud.ca_file),
            polling_interval=0.01,
            retry_total=0,
        )

    def attach(
        self, disk: str, lun: int | None = 63, machine: str = "worker-1", caching: str | None = "None"
    ) -> StorageProfile:
        wanted = DataDisksToAttach(disk_id=disk, lun=lun, caching=caching)
        return self._change(machine, AttachDetachDataDisksRequest(data_disks_to_attach=[wanted]))

    def detach(self, disk: str, machine: str = "worker-1") -> StorageProfile:
        return self._change(
            machine, AttachDetachDataDisksRequest(data_disks_to_detach=[DataDisksToDetach(disk_id=disk)])
        )

    def data_disks(self, machine: str = "worker-1") -> list[DataDisk]:
        profile = self.client.virtual_machines.get(GROUP, machine).properties.storage_profile
        return list(profile.data_disks or ())

    def luns(self, machine: str = "worker-1") -> dict[str, int]:
        return {str(entry.name): entry.lun for entry in self.data_disks(machine)}

    def _change(self, machine: str, request: AttachDetachDataDisksRequest) -> StorageProfile:
        return self.client.virtual_machines.begin_attach_detach_data_disks(GROUP, machine, request).result()


class Wire:
    """Requests as they go over the wire."""

    def __init__(self, cloud: AzureEmulation) -> None:
        token = cloud.accounts.issue(Identity())
        self.http = httpx.Client(
            base_url=cloud.url,
            verify=ssl.create_default_context(cafile=str(cloud.ca_file)),
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
        )

    def attach(self, body: object, machine: str = "worker-1", headers: dict[str, str] | None = None) -> httpx.Response:
        path = machine_path(machine) + "/attachDetachDataDisks"
        return self.http.post(path, params={"api-version": COMPUTE_VERSION}, json=body, headers=headers)

    def get(self, path: str, version: str = COMPUTE_VERSION) -> httpx.Response:
        return self.http.get(path, params={"api-version": version})

    def put(self, path: str, body: object) -> httpx.Response:
        return self.http.put(path, params={"api-version": DISK_VERSION}, json=body)


def machine_path(name: str) -> str:
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}{COMPUTE}/virtualMachines/{name}"


def disk_path(name: str, group: str = GROUP) -> str:
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}{COMPUTE}/disks/{name}"


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    """Status, code and message of a refusal."""
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


def refused(call: Callable[[], object]) -> tuple[int, str]:
    """Status and code of the error that a call of the SDK ends with."""
    with pytest.raises(HttpResponseError) as caught:
        call()
    assert caught.value.error is not None
    return caught.value.status_code or 0, str(caught.value.error.code)


def make_provider(cloud: AzureEmulation, machine: str = "worker-1", name: str = "prod", **settings: object) -> Provider:
    """Built as the service builds it. Its environment must be in force."""
    plugins = Plugins([("azure", azure_plugin)])
    plugins.configure({name: {**cloud.provider_settings(machine), **settings}})
    return plugins[name]


def describe(provider: Provider, native: str) -> Disk:
    return provider.describe(DiskId(provider.name, native))


def plan_for(provider: Provider, native: str) -> AttachPlan:
    return provider.plan_attach(describe(provider, native), Access.READ_ONLY)


def attach(provider: Provider, native: str) -> Attachment:
    """Planned and carried out."""
    return provider.attach(plan_for(provider, native))
