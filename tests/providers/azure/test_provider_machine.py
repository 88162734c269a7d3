"""The Azure provider finds out which machine it runs on, or says what it tried."""

import pytest

from cloudmanager.core.errors import AttachLimit, CloudError, ConfigurationError
from cloudmanager.core.model import Access, DiskId, Query, Severity
from cloudmanager.core.plugins import Provider
from cloudmanager.testing.cloud.azure import AzureEmulation
from cloudmanager.testing.cloud.azure.emulation import GROUP, OTHER_GROUP, OTHER_SUBSCRIPTION, SUBSCRIPTION
from cloudmanager.testing.cloud.faults import Effect, Fault
from tests.providers.azure.clients import attach, machine_path, make_provider

NOBODY = "http://127.0.0.1:1"
REPORTED = {"subscription_id": SUBSCRIPTION, "vm": f"{GROUP}/worker-1", "location": "westeurope-1"}


def test_the_metadata_server_tells(cloud: AzureEmulation, provider: Provider) -> None:
    node = provider.node()
    assert (node.name, node.location, node.native_id) == ("worker-1", "westeurope-1", machine_path("worker-1"))


def test_a_machine_without_a_zone_is_in_its_region(cloud: AzureEmulation, identity: None) -> None:
    cloud.make_instance("worker-9", location="westeurope")
    assert make_provider(cloud, "worker-9").node().location == "westeurope"


@pytest.mark.parametrize("vm", ["worker-1", f"{GROUP}/worker-1", machine_path("worker-1").upper()])
def test_settings_make_the_metadata_server_needless(cloud: AzureEmulation, identity: None, vm: str) -> None:
    settings = {**REPORTED, "vm": vm, "resource_group": GROUP, "metadata_url": NOBODY}
    provider = make_provider(cloud, **settings)
    assert provider.node().name.casefold() == "worker-1"
    cloud.make_disk("evidence-7")
    assert attach(provider, "evidence-7").slot == "0"
    assert "metadata" not in [call.operation for call in cloud.calls]


def test_another_machine_of_the_group_can_be_named_alone(cloud: AzureEmulation, identity: None) -> None:
    assert make_provider(cloud, vm="worker-2").node().native_id == machine_path("worker-2")
    assert f"/{OTHER_GROUP}/" in make_provider(cloud, vm=f"{OTHER_GROUP}/worker-7").node().native_id


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (Fault("metadata", Effect.ERROR, times=0), "403"),
        (Fault("metadata", Effect.HANG, seconds=0.5, times=0), "no answer"),
        (Fault("metadata", Effect.CUT_BEFORE, times=0), "could not be reached"),
    ],
)
def test_a_metadata_server_in_trouble_is_named_with_the_way_around_it(
    cloud: AzureEmulation, identity: None, fault: Fault, what: str
) -> None:
    cloud.faults.add(fault)
    provider = make_provider(cloud, metadata_timeout_seconds=0.2)
    with pytest.raises(ConfigurationError, match=what) as caught:
        provider.node()
    assert cloud.metadata_url("worker-1") in caught.value.detail
    assert "subscription_id, vm" in caught.value.detail


def test_an_absent_metadata_server_is_a_mistake_of_the_configuration(cloud: AzureEmulation, identity: None) -> None:
    with pytest.raises(ConfigurationError, match=r"\[providers.prod\] Set subscription_id"):
        make_provider(cloud, metadata_url=NOBODY).node()


def test_another_clouds_metadata_server_is_recognised(cloud: AzureEmulation, identity: None) -> None:
    provider = make_provider(cloud, metadata_url=f"{cloud.metadata_url('worker-1')}/metadata/versions?")
    with pytest.raises(ConfigurationError, match=r"not Azure's"):
        provider.node()


def test_a_machine_of_a_uniform_scale_set_is_refused(cloud: AzureEmulation, identity: None) -> None:
    provider = make_provider(cloud, vm=machine_path("set-1").replace("virtualMachines", "virtualMachineScaleSets"))
    with pytest.raises(ConfigurationError, match="not the id of a virtual machine"):
        provider.node()


def test_a_machine_of_another_subscription_is_refused_at_the_start(cloud: AzureEmulation, identity: None) -> None:
    with pytest.raises(ConfigurationError, match="across subscriptions"):
        make_provider(cloud, subscription_id=OTHER_SUBSCRIPTION).node()


def test_an_endpoint_in_the_clear_is_refused(cloud: AzureEmulation) -> None:
    with pytest.raises(ConfigurationError, match="https://"):
        make_provider(cloud, endpoint="http://management.azure.com")


def test_the_doctor_finds_all_well(cloud: AzureEmulation, provider: Provider) -> None:
    findings = provider.diagnose()
    assert {finding.severity for finding in findings} == {Severity.OK}
    assert findings[-1].seen == "0 of 32 disks attached (Standard_D16s_v5)"


def test_the_doctor_sees_a_missing_role_and_a_full_machine(cloud: AzureEmulation, identity: None) -> None:
    cloud.make_instance("small-1", size="Standard_B1s")
    for number in range(2):
        cloud.attach_by_hand(cloud.make_disk(f"evidence-{number}"), "small-1")
    assert make_provider(cloud, "small-1").diagnose()[-1].severity is Severity.WARNING
    cloud.identities["worker-1"].actions = ("Microsoft.Compute/virtualMachines/read",)
    listing = make_provider(cloud, "small-1").diagnose()[2]
    assert (listing.severity, "find_in" in listing.advice) == (Severity.WARNING, True)
    cloud.identities["worker-1"].actions = ()
    denied = make_provider(cloud, "small-1").diagnose()[-1]
    assert denied.severity is Severity.PROBLEM
    assert "docs/providers/azure.md" in denied.advice


def test_no_more_disks_are_attached_than_the_setting_allows(cloud: AzureEmulation, identity: None) -> None:
    provider = make_provider(cloud, max_disks=1)
    assert provider.diagnose()[-1].seen == "0 of 1 disks attached (max_disks)"
    cloud.attach_by_hand(cloud.make_disk("evidence-1"), "worker-1")
    disk = provider.describe(DiskId(provider.name, cloud.make_disk("evidence-2")))
    with pytest.raises(AttachLimit, match="1 of the 1 disks that max_disks allows"):
        provider.plan_attach(disk, Access.READ_ONLY)


def test_a_cloud_with_older_apis_is_asked_in_the_versions_that_are_set(cloud: AzureEmulation, identity: None) -> None:
    cloud.latest_api_version = "2024-07-01"
    disk = cloud.make_disk("evidence-7")
    with pytest.raises(CloudError, match="api version"):
        attach(make_provider(cloud), disk)
    provider = make_provider(cloud, api_version="2024-03-01", disk_api_version="2023-10-02")
    assert {finding.severity for finding in provider.diagnose()} == {Severity.OK}
    attachment = attach(provider, disk)
    provider.detach(attachment)
    assert cloud.holders(disk) == []
    copy = provider.restore(provider.snapshot(attachment.disk, "case-42"), "copy")
    assert copy.id.native in [found.id.native for found in provider.find(Query()).items]


def test_a_version_without_attach_and_detach_is_refused(cloud: AzureEmulation, identity: None) -> None:
    with pytest.raises(ConfigurationError, match="exist since 2024-03-01"):
        make_provider(cloud, api_version="2023-09-01")


def test_the_doctor_asks_for_the_groups_of_find_in_alone(cloud: AzureEmulation, identity: None) -> None:
    provider = make_provider(cloud, find_in=[GROUP, OTHER_GROUP])
    findings = [finding for finding in provider.diagnose() if "list disks" in finding.subject]
    assert [finding.subject.rpartition(" ")[2] for finding in findings] == [GROUP, OTHER_GROUP]
    listed = [call.target for call in cloud.calls if call.operation == "Disks_List"]
    assert listed == []


def test_the_boot_disk_is_known_and_never_offered_read_write(cloud: AzureEmulation, provider: Provider) -> None:
    boot = provider.describe(DiskId(provider.name, cloud.make_os_disk("worker-1")))
    assert (boot.is_boot, boot.is_attached, boot.access) == (True, True, frozenset(Access) - {Access.READ_WRITE})
    attachment = attach(provider, cloud.make_disk("evidence-7"))
    data = provider.describe(attachment.disk.id)
    assert (data.is_boot, data.is_attached, Access.READ_WRITE in data.access) == (False, True, True)


def test_the_doctor_names_a_machine_that_is_not_there(cloud: AzureEmulation, identity: None) -> None:
    finding = make_provider(cloud, vm="nobody").diagnose()[-1]
    assert (finding.severity, finding.subject) == (Severity.PROBLEM, "machine")
