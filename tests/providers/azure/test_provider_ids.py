"""Every spelling of a disk means one disk, and what is no disk's id is refused before anybody is asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudmanager.core.errors import AmbiguousDisk, DiskNotFound, InvalidDiskId
from cloudmanager.core.model import Access
from cloudmanager.core.plugins import Provider
from cloudmanager.providers.azure.resource_id import DISKS, ResourceId, Spelling
from cloudmanager.testing.cloud.azure import AzureEmulation
from cloudmanager.testing.cloud.azure.emulation import GROUP, OTHER_GROUP, OTHER_SUBSCRIPTION, SUBSCRIPTION
from tests.providers.azure.clients import describe, disk_path, make_provider

FULL = disk_path("Evidence-7")
MALFORMED = (
    "/",
    "a/b/c",
    "../evidence-7",
    "evidence-7/",
    "/evidence-7",
    "-evidence",
    "evidence.",
    "evidence 7",
    "evidence-7?api-version=1",
    "evidence%2F7",
    "x" * 81,
    f"{'g' * 91}/evidence-7",
    "group./evidence-7",
    FULL + "/more",
    FULL.replace("/disks/", "/snapshots/"),
    FULL.replace("Microsoft.Compute", "Microsoft.Storage"),
    FULL.replace(SUBSCRIPTION, "mine"),
    FULL.replace(GROUP, ".."),
    "évidence",
)


@pytest.mark.parametrize(
    "spelling",
    [
        "Evidence-7",
        "EVIDENCE-7",
        f"{GROUP}/evidence-7",
        f"{GROUP.upper()}/evidence-7",
        FULL,
        FULL.upper(),
        FULL.lower(),
        FULL.removeprefix("/"),
        f"https://management.azure.com{FULL}",
    ],
)
def test_every_spelling_has_one_canonical_id(cloud: AzureEmulation, provider: Provider, spelling: str) -> None:
    cloud.make_disk("Evidence-7")
    canonical = f"azure:/{FULL.casefold()}"
    assert describe(provider, spelling).canonical_id == canonical
    assert ResourceId.of_canonical(canonical) == ResourceId.of(FULL.casefold())


def test_two_providers_of_one_account_see_one_disk(cloud: AzureEmulation, provider: Provider) -> None:
    cloud.make_disk(f"{OTHER_GROUP}/old-1")
    other = make_provider(cloud, name="archive", resource_group=OTHER_GROUP)
    assert describe(other, "old-1").canonical_id == describe(provider, f"{OTHER_GROUP}/old-1").canonical_id


def test_a_described_disk_stays_the_same_when_the_default_group_changes(
    cloud: AzureEmulation, provider: Provider
) -> None:
    cloud.make_disk("evidence-7")
    disk = describe(provider, "evidence-7")
    cloud.make_disk(f"{OTHER_GROUP}/evidence-7")
    restarted = make_provider(cloud, resource_group=OTHER_GROUP)
    restarted.attach(restarted.plan_attach(disk, Access.READ_ONLY))
    assert cloud.holders("evidence-7") == ["worker-1"]
    assert cloud.holders(f"{OTHER_GROUP}/evidence-7") == []


def test_a_described_disk_is_not_sought_in_another_subscription(cloud: AzureEmulation, provider: Provider) -> None:
    cloud.make_disk("evidence-7")
    disk = describe(provider, "evidence-7")
    restarted = make_provider(cloud, subscription_id=OTHER_SUBSCRIPTION, vm=f"{GROUP}/worker-1")
    with pytest.raises(InvalidDiskId, match="across subscriptions"):
        restarted.plan_attach(disk, Access.READ_ONLY)


@pytest.mark.parametrize("native", MALFORMED)
def test_what_is_no_id_is_refused_before_anybody_is_asked(
    cloud: AzureEmulation, provider: Provider, native: str
) -> None:
    with pytest.raises(InvalidDiskId, match="group/name"):
        describe(provider, native)
    assert len(cloud.calls) == 0


def test_a_disk_of_another_subscription_is_refused_with_advice(cloud: AzureEmulation, provider: Provider) -> None:
    with pytest.raises(InvalidDiskId, match="across subscriptions"):
        describe(provider, FULL.replace(SUBSCRIPTION, OTHER_SUBSCRIPTION))
    assert [call.operation for call in cloud.calls] == ["metadata"]


@pytest.mark.parametrize("native", ["nothing", "no-group/nothing"])
def test_a_missing_disk_is_not_found(cloud: AzureEmulation, provider: Provider, native: str) -> None:
    with pytest.raises(DiskNotFound) as caught:
        describe(provider, native)
    assert caught.value.cloud_code in ("ResourceNotFound", "ResourceGroupNotFound", None)


def test_a_described_disk_has_azures_facts(cloud: AzureEmulation, provider: Provider) -> None:
    cloud.make_disk("evidence-7", size_bytes=3 * 512, labels={"case": "42"})
    disk = describe(provider, "evidence-7")
    assert (disk.size_bytes, disk.format, disk.location) == (3 * 512, "raw", "westeurope-1")
    assert (dict(disk.labels), disk.description) == ({"case": "42"}, "Premium_LRS, Unattached")
    assert disk.created_at is not None
    cloud.attach_by_hand("evidence-7", "worker-1")
    assert describe(provider, "evidence-7").held_by == ()


@given(st.text(max_size=40))
def test_no_text_gets_into_a_path_unchecked(text: str) -> None:
    try:
        found = Spelling.parse(text, DISKS).resolve(SUBSCRIPTION, GROUP)
    except InvalidDiskId:
        return
    assert ResourceId.of(str(found)) == found
    assert str(found).count("/") == 8


def test_a_name_that_several_groups_have_is_refused_with_the_candidates(
    cloud: AzureEmulation, provider: Provider
) -> None:
    for group in (GROUP, OTHER_GROUP):
        cloud.make_disk(f"{group}/Evidence-7")
    with pytest.raises(AmbiguousDisk) as caught:
        describe(provider, "evidence-7")
    for group in (GROUP, OTHER_GROUP):
        assert f":{group.casefold()}/Evidence-7" in caught.value.detail
        assert describe(provider, f"{group}/evidence-7").canonical_id


@pytest.mark.parametrize("group", [GROUP, OTHER_GROUP])
def test_the_only_disk_of_a_name_is_found_in_every_group(cloud: AzureEmulation, provider: Provider, group: str) -> None:
    cloud.make_disk(f"{group}/evidence-7")
    cloud.make_disk(f"{GROUP}/evidence-70")
    disk = describe(provider, "EVIDENCE-7")
    assert disk.id.native == f"{group.casefold()}/evidence-7"
    assert disk == describe(provider, disk.id.native)


def test_every_page_of_the_list_is_looked_at(cloud: AzureEmulation, provider: Provider) -> None:
    for group in (GROUP, OTHER_GROUP):
        cloud.make_disk(f"{group}/zzz-last")
    for number in range(60):
        cloud.make_disk(f"{GROUP}/disk-{number:02}", size_bytes=1 << 20)
    with pytest.raises(AmbiguousDisk):
        describe(provider, "zzz-last")


def test_the_groups_of_find_in_and_the_setting_for_names_without_one_bound_it(
    cloud: AzureEmulation, identity: None
) -> None:
    for group in (GROUP, OTHER_GROUP):
        cloud.make_disk(f"{group}/evidence-7")
    for settings in ({"find_in": [OTHER_GROUP]}, {"resource_group": OTHER_GROUP}):
        disk = describe(make_provider(cloud, **settings), "evidence-7")
        assert f"/resourcegroups/{OTHER_GROUP.casefold()}/" in disk.canonical_id
    with pytest.raises(DiskNotFound, match="lists"):
        describe(make_provider(cloud, find_in=[OTHER_GROUP]), "nothing-here")
