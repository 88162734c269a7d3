"""The emulated Azure asks for what Resource Manager asks for, and checks what it is sent."""

import ssl

import httpx
import pytest
from azure.core.exceptions import HttpResponseError
from azure.mgmt.compute.models import CreationData, Disk, DiskProperties, DiskSku, GrantAccessData

from cloudmanager.testing.cloud.azure import AzureEmulation
from cloudmanager.testing.cloud.azure.accounts import Identity
from cloudmanager.testing.cloud.azure.emulation import ATTACH, GROUP, OTHER_GROUP, SUBSCRIPTION
from cloudmanager.testing.cloud.faults import Effect, Fault
from tests.providers.azure.clients import Sdk, Wire, disk_path, error_of, machine_path, refused


def test_a_request_without_a_token_is_refused(cloud: AzureEmulation, wire: Wire) -> None:
    answer = wire.http.get(machine_path("worker-1"), headers={"Authorization": ""})
    assert error_of(answer)[:2] == (401, "AuthenticationFailed")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


def test_a_made_up_token_is_refused(wire: Wire) -> None:
    answer = wire.http.get(machine_path("worker-1"), headers={"Authorization": "Bearer made-up"})
    assert error_of(answer)[:2] == (401, "InvalidAuthenticationToken")


def test_only_the_authority_of_the_emulator_vouches_for_it(cloud: AzureEmulation) -> None:
    with httpx.Client(verify=ssl.create_default_context(), trust_env=False) as stranger:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            stranger.get(cloud.url)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "MissingApiVersionParameter"),
        ("?api-version=", "MissingApiVersionParameter"),
        ("?api-version=1999-01-01", "InvalidResourceType"),
        ("?api-version=2026-03-02", "InvalidResourceType"),  # that of disks
    ],
)
def test_every_request_names_an_api_version_of_its_resource(wire: Wire, query: str, code: str) -> None:
    assert error_of(wire.http.get(machine_path("worker-1") + query))[:2] == (400, code)


def test_attach_detach_came_with_2024_03_01(cloud: AzureEmulation, wire: Wire) -> None:
    path = machine_path("worker-1") + "/attachDetachDataDisks"
    wanted = {"dataDisksToAttach": [{"diskId": cloud.make_disk("evidence-7")}]}
    before = wire.http.post(path, params={"api-version": "2023-09-01"}, json=wanted)
    assert error_of(before)[:2] == (400, "InvalidResourceType")
    assert wire.http.post(path, params={"api-version": "2024-03-01"}, json=wanted).status_code == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"dataDisksToAttach": [{"diskId": "D", "lunn": 1}]}, "BadRequest"),
        ({"dataDisksToAttach": [{"diskId": "D"}], "more": 1}, "BadRequest"),
        ({"dataDisksToAttach": [{"lun": 1}]}, "InvalidParameter"),
        ({"dataDisksToAttach": [{"diskId": "D", "lun": "1"}]}, "InvalidParameter"),
        ({"dataDisksToAttach": [{"diskId": "D", "caching": "Always"}]}, "InvalidParameter"),
        ({"dataDisksToAttach": {"diskId": "D"}}, "InvalidParameter"),
        ({"dataDisksToAttach": [{"diskId": "no-id"}]}, "InvalidParameter"),
        ({}, "InvalidParameter"),
        ([], "InvalidParameter"),
    ],
)
def test_a_body_must_fit_the_schema(cloud: AzureEmulation, wire: Wire, body: object, code: str) -> None:
    disk = cloud.make_disk("evidence-7")
    text = httpx.Request("POST", "https://x", json=body).content.replace(b'"D"', f'"{disk}"'.encode())
    path = machine_path("worker-1") + "/attachDetachDataDisks"
    answer = wire.http.post(path, params={"api-version": "2026-04-01"}, content=text)
    assert error_of(answer)[:2] == (400, code)
    assert cloud.holders(disk) == []


def test_a_body_must_be_json(wire: Wire) -> None:
    path = machine_path("worker-1") + "/attachDetachDataDisks"
    answer = wire.http.post(path, params={"api-version": "2026-04-01"}, content=b"{")
    assert error_of(answer)[:2] == (400, "InvalidRequestContent")


def test_what_does_not_exist_is_said_by_its_level(cloud: AzureEmulation, wire: Wire) -> None:
    other = machine_path("worker-1").replace(SUBSCRIPTION, "11111111-2222-3333-4444-555555555555")
    assert error_of(wire.get(other))[:2] == (404, "SubscriptionNotFound")
    assert error_of(wire.get(machine_path("worker-1").replace(SUBSCRIPTION, "mine")))[1] == "InvalidSubscriptionId"
    assert error_of(wire.get(machine_path("worker-1").replace(GROUP, "none")))[1] == "ResourceGroupNotFound"
    assert error_of(wire.get(machine_path("none")))[1] == "ResourceNotFound"
    assert wire.get("/subscriptions").status_code == 404


def test_a_role_allows_what_it_names_and_no_more(cloud: AzureEmulation) -> None:
    cloud.make_disk("evidence-7")
    reader = Sdk(cloud, Identity(actions=("Microsoft.Compute/disks/read",)))
    with reader.client:
        assert [disk.name for disk in reader.client.disks.list()] == ["evidence-7"]
        assert refused(lambda: reader.client.virtual_machines.get(GROUP, "worker-1")) == (403, "AuthorizationFailed")


def test_an_attach_needs_permission_on_the_disk_too(cloud: AzureEmulation) -> None:
    disk = cloud.make_disk("evidence-7")
    actions = ("Microsoft.Compute/virtualMachines/*",)
    machines_only = Sdk(cloud, Identity(actions=actions))
    with machines_only.client:
        assert refused(lambda: machines_only.attach(disk)) == (403, "LinkedAuthorizationFailed")
    assert cloud.calls.mutations()
    assert cloud.holders(disk) == []


def test_lists_come_page_by_page_and_miss_nothing(cloud: AzureEmulation, sdk: Sdk, wire: Wire) -> None:
    names = [f"disk-{number:02}" for number in range(11)]
    for name in names:
        cloud.make_disk(name, size_bytes=512)
    cloud.largest_page = 4
    pages = [[disk.name for disk in page] for page in sdk.client.disks.list().by_page()]
    assert [len(page) for page in pages] == [4, 4, 3]
    assert [name for page in pages for name in page] == names
    path = disk_path("").rstrip("/")
    first = wire.get(path, "2026-03-02").json()
    cloud.delete_disk("disk-03")
    assert [disk["name"] for disk in wire.http.get(first["nextLink"]).json()["value"]] == names[4:8]
    assert error_of(wire.http.get(first["nextLink"] + "x"))[:2] == (400, "InvalidSkipToken")


def test_groups_divide_a_list(cloud: AzureEmulation, sdk: Sdk) -> None:
    cloud.make_disk("evidence-7")
    cloud.make_disk(f"{OTHER_GROUP}/old-1")
    assert [disk.name for disk in sdk.client.disks.list_by_resource_group(OTHER_GROUP.upper())] == ["old-1"]
    assert {disk.name for disk in sdk.client.disks.list()} == {"evidence-7", "old-1"}
    assert [machine.name for machine in sdk.client.virtual_machines.list(GROUP)] == ["worker-1", "worker-2"]


def test_resource_groups_are_listed(wire: Wire) -> None:
    listed = wire.get(f"/subscriptions/{SUBSCRIPTION}/resourcegroups", "2021-04-01").json()["value"]
    assert {group["name"] for group in listed} == {GROUP, OTHER_GROUP}


def test_sizes_tell_how_many_disks_they_take(sdk: Sdk) -> None:
    limits = {size.name: size.max_data_disk_count for size in sdk.client.virtual_machine_sizes.list("westeurope")}
    assert limits["Standard_D4s_v5"] == 8
    available = sdk.client.virtual_machines.list_available_sizes(GROUP, "worker-1")
    assert {size.name for size in available} == set(limits)


@pytest.mark.parametrize(("form", "code"), [("", "TooManyRequests"), ("subscription", "SubscriptionRequestsThrottled")])
def test_throttling_says_when_to_come_back(cloud: AzureEmulation, wire: Wire, form: str, code: str) -> None:
    cloud.faults.add(Fault("VirtualMachines_Get", Effect.THROTTLE, form=form, retry_after=11))
    answer = wire.get(machine_path("worker-1"))
    assert error_of(answer)[:2] == (429, code)
    assert answer.headers["Retry-After"] == "11"


def test_an_error_can_be_ordered_for_the_second_call(cloud: AzureEmulation, wire: Wire) -> None:
    cloud.faults.add(Fault("VirtualMachines_Get", Effect.ERROR, nth=2, code="InternalServerError"))
    answers = [wire.get(machine_path("worker-1")) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 500, 200]


def test_a_cut_connection_is_none_of_the_calls_doing(cloud: AzureEmulation, sdk: Sdk) -> None:
    cloud.faults.add(Fault(f"{ATTACH}/attach", Effect.CUT_AFTER))
    disk = cloud.make_disk("evidence-7")
    with pytest.raises(Exception, match="Connection"):
        sdk.attach(disk)
    assert cloud.holders(disk) == ["worker-1"]


def test_a_disk_is_made_deleted_and_made_again(cloud: AzureEmulation, sdk: Sdk) -> None:
    wanted = Disk(
        location="westeurope",
        zones=["1"],
        sku=DiskSku(name="Premium_LRS"),
        tags={"case": "42"},
        properties=DiskProperties(creation_data=CreationData(create_option="Empty"), disk_size_gb=2),
    )
    made = sdk.client.disks.begin_create_or_update(GROUP, "new-1", wanted).result()
    assert (made.properties.disk_size_bytes, made.properties.provisioning_state) == (2 * 1024**3, "Succeeded")
    assert cloud.backing("new-1").stat().st_size == 2 * 1024**3
    assert sdk.client.disks.begin_create_or_update(GROUP, "new-1", wanted).result().tags == {"case": "42"}
    sdk.client.disks.begin_delete(GROUP, "new-1").result()
    assert refused(lambda: sdk.client.disks.get(GROUP, "new-1")) == (404, "ResourceNotFound")
    sdk.client.disks.begin_delete(GROUP, "new-1").result()


def test_a_put_of_a_disk_is_answered_as_recorded(wire: Wire) -> None:
    properties = {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1}
    answer = wire.put(disk_path("new-1"), {"location": "westeurope", "properties": properties})
    assert answer.status_code == 202
    assert {"azure-asyncoperation", "location"} <= {name.casefold() for name in answer.headers}
    assert answer.json()["properties"]["provisioningState"] == "Updating"


@pytest.mark.parametrize("name", ["-x", "x-", "x" * 81, "a b"])
def test_a_disk_has_a_proper_name(wire: Wire, name: str) -> None:
    properties = {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1}
    answer = wire.put(disk_path(name), {"location": "westeurope", "properties": properties})
    assert error_of(answer)[:2] == (400, "InvalidParameter")


def test_creation_data_does_not_change(cloud: AzureEmulation, wire: Wire) -> None:
    cloud.make_disk("evidence-7")
    properties = {"creationData": {"createOption": "Copy", "sourceResourceId": "x"}}
    answer = wire.put(disk_path("evidence-7"), {"location": "westeurope", "properties": properties})
    assert error_of(answer)[:2] == (409, "PropertyChangeNotAllowed")


def test_an_attached_disk_is_not_deleted(cloud: AzureEmulation, sdk: Sdk) -> None:
    cloud.attach_by_hand(cloud.make_disk("evidence-7"), "worker-1")
    assert refused(lambda: sdk.client.disks.begin_delete(GROUP, "evidence-7")) == (409, "OperationNotAllowed")


def test_a_subscription_has_a_quota_of_disks(cloud: AzureEmulation, wire: Wire) -> None:
    cloud.make_disk("evidence-7")
    cloud.disks.quota = 1
    properties = {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1}
    answer = wire.put(disk_path("new-1"), {"location": "westeurope", "properties": properties})
    assert error_of(answer)[:2] == (409, "OperationNotAllowed")


def test_an_operation_that_nobody_started_is_not_found(wire: Wire) -> None:
    path = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/locations/westeurope/operations/none"
    assert error_of(wire.get(path))[:2] == (404, "OperationNotFound")


def test_reading_a_disk_by_link_needs_its_signature(cloud: AzureEmulation, sdk: Sdk, wire: Wire) -> None:
    cloud.make_disk("evidence-7", size_bytes=4096)
    cloud.backing("evidence-7").write_bytes(b"0123456789abcdef" * 256)
    grant = GrantAccessData(access="Read", duration_in_seconds=600)
    link = str(sdk.client.disks.begin_grant_access(GROUP, "evidence-7", grant).result().access_sas)
    answer = wire.http.get(link, headers={"Range": "bytes=2-5"})
    assert (answer.status_code, answer.content) == (206, b"2345")
    assert wire.http.head(link).headers["Content-Length"] == "4096"
    assert wire.http.get(link[:-1], headers={"Range": "bytes=2-5"}).status_code == 403
    assert sdk.client.disks.get(GROUP, "evidence-7").properties.disk_state == "ActiveSAS"
    sdk.client.disks.begin_revoke_access(GROUP, "evidence-7").result()
    assert wire.http.get(link, headers={"Range": "bytes=2-5"}).status_code == 403


def test_an_attached_disk_gives_out_no_link(cloud: AzureEmulation, sdk: Sdk) -> None:
    cloud.attach_by_hand(cloud.make_disk("evidence-7"), "worker-1")
    grant = GrantAccessData(access="Read", duration_in_seconds=600)
    with pytest.raises(HttpResponseError, match="currently attached"):
        sdk.client.disks.begin_grant_access(GROUP, "evidence-7", grant)
