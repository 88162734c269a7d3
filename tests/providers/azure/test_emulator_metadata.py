"""The metadata server of the emulated Azure, and the SDK's credential on it."""

import httpx
import pytest
from azure.core.exceptions import HttpResponseError
from azure.identity import ManagedIdentityCredential
from azure.mgmt.compute import ComputeManagementClient

from cloudmanager.testing.cloud.azure import AzureEmulation
from cloudmanager.testing.cloud.azure.emulation import GROUP, SUBSCRIPTION
from cloudmanager.testing.cloud.faults import Effect, Fault
from tests.providers.azure.clients import machine_path

INSTANCE = "/metadata/instance?api-version=2021-10-01"
TOKEN = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://management.azure.com/"


def ask(cloud: AzureEmulation, path: str, machine: str = "worker-1", **headers: str) -> httpx.Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.get(cloud.metadata_url(machine) + path, headers=given, trust_env=False)


def test_each_machine_hears_of_itself(cloud: AzureEmulation) -> None:
    for machine in ("worker-1", "worker-2"):
        compute = ask(cloud, INSTANCE, machine, Metadata="true").json()["compute"]
        assert (compute["name"], compute["resourceId"]) == (machine, machine_path(machine))
        assert (compute["location"], compute["zone"], compute["subscriptionId"]) == ("westeurope", "1", SUBSCRIPTION)
        assert compute["resourceGroupName"] == GROUP


@pytest.mark.parametrize("path", [INSTANCE, TOKEN])
def test_the_header_is_needed(cloud: AzureEmulation, path: str) -> None:
    assert ask(cloud, path).status_code == 400
    assert ask(cloud, path, Metadata="yes").status_code == 400


@pytest.mark.parametrize("path", [INSTANCE, TOKEN])
def test_a_proxied_request_is_refused(cloud: AzureEmulation, path: str) -> None:
    assert ask(cloud, path, Metadata="true", X_Forwarded_For="192.0.2.7").status_code == 400


def test_an_unknown_version_is_answered_with_newer_ones(cloud: AzureEmulation) -> None:
    for path in ("/metadata/instance", "/metadata/instance?api-version=1999-01-01"):
        answer = ask(cloud, path, Metadata="true")
        assert answer.status_code == 400
        assert "2021-10-01" in answer.json()["newest-versions"]


def test_a_part_can_be_asked_for(cloud: AzureEmulation) -> None:
    compute = ask(cloud, INSTANCE.replace("instance", "instance/compute"), Metadata="true").json()
    assert compute["vmSize"].startswith("Standard_")
    assert ask(cloud, "/metadata/nothing", Metadata="true").status_code == 404


def test_the_luns_are_told_too(cloud: AzureEmulation) -> None:
    cloud.attach_by_hand(cloud.make_disk("evidence-7"), "worker-1", slot="9")
    disks = ask(cloud, INSTANCE, Metadata="true").json()["compute"]["storageProfile"]["dataDisks"]
    assert [disk["lun"] for disk in disks] == [9]


def test_a_managed_identity_gets_a_token_that_works(cloud: AzureEmulation, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cloud.environment("worker-1").items():
        monkeypatch.setenv(name, value)
    with (
        ManagedIdentityCredential() as credential,
        ComputeManagementClient(
            credential, SUBSCRIPTION, base_url=cloud.url, connection_verify=str(cloud.ca_file)
        ) as client,
    ):
        assert client.virtual_machines.get(GROUP, "worker-1").name == "worker-1"
        cloud.identities["worker-1"].actions = ()
        with pytest.raises(HttpResponseError, match="AuthorizationFailed"):
            client.virtual_machines.get(GROUP, "worker-1")


def test_another_identity_is_not_given(cloud: AzureEmulation) -> None:
    answer = ask(cloud, TOKEN + "&client_id=11111111-2222-3333-4444-555555555555", Metadata="true")
    assert (answer.status_code, answer.json()["error_description"]) == (400, "Identity not found")
    assert ask(cloud, TOKEN.partition("&")[0], Metadata="true").status_code == 400


def test_the_metadata_server_can_refuse_and_be_slow(cloud: AzureEmulation) -> None:
    cloud.faults.add(Fault("metadata", Effect.ERROR, target="worker-1"))
    assert ask(cloud, INSTANCE, Metadata="true").status_code == 403
    cloud.faults.add(Fault("metadata", Effect.HANG, seconds=0.3))
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(cloud.metadata_url("worker-1") + INSTANCE, headers={"Metadata": "true"}, timeout=0.1, trust_env=False)
