"""What a worker calls before and after its work, with openrelik-worker-common's own functions around it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from openrelik_worker_common.file_utils import is_disk_image
from openrelik_worker_common.task_utils import create_task_result, get_input_files

from cloudmanager.client import CloudManager, ExportLost
from cloudmanager.client.access_methods import AccessMethod
from cloudmanager.client.openrelik import (
    Descriptor,
    DescriptorError,
    DiskNotNamed,
    PreparationFailed,
    PreparedFiles,
    describes_disk,
    postprocess,
    preprocess,
)
from cloudmanager.client.openrelik.naming import disk_id
from cloudmanager.testing.cloud.gce import Emulation
from tests.client.daemon import Daemon
from tests.client.openrelik.conftest import Describe
from tests.waiting import eventually

REGION = "europe-west4"


@pytest.fixture
def manager(daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CloudManager:
    monkeypatch.setenv("CLOUDMANAGER_RUN_DIR", str(tmp_path / "run"))
    return CloudManager(daemon.url)


def first_mebibyte(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1 << 20)


def live(manager: CloudManager) -> list[str]:
    return [export.id for export in manager.exports() if export.state.is_live]


def test_a_disk_in_a_cloud_becomes_a_file_and_is_detached_afterwards(
    manager: CloudManager, cloud: Emulation, evidence: str, gcp_disk: dict[str, object]
) -> None:
    (disk,) = (each for each in manager.disks("evidence-7"))
    prepared = preprocess([gcp_disk], manager=manager, method=AccessMethod.FILE)
    try:
        [file] = prepared
        assert Path(file["path"]).stat().st_size == disk.size_bytes
        assert first_mebibyte(Path(file["path"])) == first_mebibyte(cloud.backing(evidence))
        assert is_disk_image(file)
        assert (file["id"], file["uuid"], file["cloud_disk"]) == (7, gcp_disk["uuid"], disk.id)
    finally:
        postprocess(prepared)
    assert not Path(file["path"]).exists()
    eventually(lambda: cloud.holders(evidence) == [])


def test_the_result_of_an_earlier_task_is_prepared_too(manager: CloudManager, own_disk: dict[str, object]) -> None:
    earlier = create_task_result([own_disk], "workflow-1")
    with preprocess(get_input_files(earlier, []), manager=manager, method=AccessMethod.FILE) as prepared:
        assert [file["display_name"] for file in prepared] == ["plain.raw"]


def test_a_stub_is_a_qcow2_for_openrelik(manager: CloudManager, own_disk: dict[str, object]) -> None:
    with preprocess([own_disk], manager=manager, method=AccessMethod.STUB) as prepared:
        [file] = prepared
        assert file["path"].endswith(".qcow2")
        assert (file["display_name"], file["data_type"]) == ("plain.raw.qcow2", "diskimage:qcow")
        assert is_disk_image(file)


def test_without_a_way_the_best_of_this_machine_is_taken(manager: CloudManager, own_disk: dict[str, object]) -> None:
    with preprocess([own_disk], manager=manager) as prepared:
        assert Path(prepared[0]["path"]).exists()


def test_other_files_are_passed_on_as_they_are(manager: CloudManager, own_disk: dict[str, object]) -> None:
    log = {"id": 1, "display_name": "syslog", "data_type": "file:generic", "path": "/somewhere/syslog"}
    assert not describes_disk(log)
    with preprocess([log, own_disk], manager=manager, method=AccessMethod.FILE) as prepared:
        assert prepared[0] == log
        assert len(prepared.disks) == 1


def test_several_disks_and_one_that_fails(
    manager: CloudManager, own_disk: dict[str, object], gcp_disk: dict[str, object], describe: Describe
) -> None:
    missing = describe("cloud:gcp:disk", {"provider": "gcp", "disk_name": "evidence-8"})
    with preprocess([own_disk, missing, gcp_disk], manager=manager, method=AccessMethod.FILE) as prepared:
        assert [file["cloud_disk"].partition(":")[0] for file in prepared] == ["local", "prod"]
        [failure] = prepared.failures
        assert failure.input_file is missing
        assert isinstance(failure.error, DiskNotNamed)


def test_a_failure_says_whether_another_attempt_may_do_better(own_disk: dict[str, object], describe: Describe) -> None:
    nobody = CloudManager("http://127.0.0.1:1", retry_seconds=0)
    with pytest.raises(PreparationFailed) as raised:
        preprocess([own_disk], manager=nobody)
    assert raised.value.retriable
    with pytest.raises(PreparationFailed) as raised:
        preprocess([describe("cloud:gcp:disk", {})], manager=nobody)
    assert not raised.value.retriable


@pytest.mark.parametrize(
    ("data_type", "content", "error"),
    [
        ("cloud:gcp:disk", {"provider": "gcp"}, DescriptorError),
        ("cloud:gcp:disk", {"disk_name": "  "}, DescriptorError),
        ("cloud:gcp:disk", "no JSON", DescriptorError),
        ("cloud:gcp:disk", [1], DescriptorError),
        ("cloud:cloudmanager:disk", {"disk": "local:plain.raw", "access": "read-write"}, DescriptorError),
        ("cloud:aws:disk", {"disk_name": "vol-1"}, DiskNotNamed),
    ],
)
def test_a_description_that_does_not_hold_is_said_to_and_nothing_stays(
    manager: CloudManager, describe: Describe, data_type: str, content: object, error: type[Exception]
) -> None:
    with pytest.raises(PreparationFailed, match=r"evidence\.json") as raised:
        preprocess([describe(data_type, content)], manager=manager)
    assert isinstance(raised.value.failures[0].error, error)
    eventually(lambda: not live(manager))


@pytest.fixture
def several(cloud: Emulation) -> Iterator[dict[str, str]]:
    """By zone, the cloud's own number of the disk that is called `common-1` there; and one in a region."""
    made = {zone: cloud.make_disk("common-1", location=zone) for zone in ("us-central1-a", "us-central1-b", REGION)}
    yield made
    for disk in made.values():
        cloud.delete_disk(disk)


def named(manager: CloudManager, input_file: dict[str, object]) -> str:
    return disk_id(manager, Descriptor.read(input_file))


def test_a_name_that_several_zones_have_is_refused_and_the_candidates_are_told(
    manager: CloudManager, describe: Describe, several: dict[str, str]
) -> None:
    with pytest.raises(PreparationFailed) as raised:
        preprocess([describe("cloud:gcp:disk", {"provider": "gcp", "disk_name": "common-1"})], manager=manager)
    [failure] = raised.value.failures
    assert isinstance(failure.error, DiskNotNamed)
    assert not failure.retriable
    for zone in several:
        assert f"prod:{zone}/common-1" in failure.error.detail


@pytest.mark.parametrize(
    ("says", "zone"),
    [
        ({"zone": "us-central1-a"}, "us-central1-a"),
        ({"zone": "US-CENTRAL1-A"}, None),
        ({"zone": "us-central1-b", "project": "acme-forensics"}, "us-central1-b"),
        ({"zone": "https://www.googleapis.com/compute/v1/projects/p/zones/us-central1-b"}, "us-central1-b"),
        ({"zone": "us-central1-b", "region": "us-central1"}, "us-central1-b"),
        ({"zone": "us-central1-b", "region": "europe-west4"}, None),
        ({"zone": "europe-west4-a"}, None),
        ({"zone": "us-central1-b", "project": "another-project"}, None),
        ({"region": "us-central1"}, None),
        ({"region": "europe-west4"}, REGION),
        ({"region": "europe-west4", "provider": "prod"}, REGION),
        ({"zone": None, "region": "europe-west4"}, REGION),
    ],
)
def test_where_it_is_tells_which_is_meant(
    manager: CloudManager, describe: Describe, several: dict[str, str], says: dict[str, str], zone: str | None
) -> None:
    input_file = describe("cloud:gcp:disk", {"disk_name": "common-1", **says})
    if zone is None:
        with pytest.raises(DiskNotNamed):
            named(manager, input_file)
    else:
        assert named(manager, input_file) == f"prod:{zone}/common-1"


def test_a_full_name_that_contradicts_the_zone_is_refused(
    manager: CloudManager, describe: Describe, several: dict[str, str]
) -> None:
    full = {"disk_name": "us-central1-a/common-1"}
    assert named(manager, describe("cloud:gcp:disk", full)) == "prod:us-central1-a/common-1"
    with pytest.raises(DiskNotNamed, match=r"zone us-central1-b: what has the name is prod:us-central1-a/common-1"):
        named(manager, describe("cloud:gcp:disk", {**full, "zone": "us-central1-b"}))


@pytest.mark.parametrize(
    ("data_type", "content", "says"),
    [
        ("cloud:gcp:disk", {"disk_name": "evidence-7", "provider": "aws"}, "provider is 'aws'"),
        ("cloud:gcp:disk", {"disk_name": "evidence-7", "provider": "Azure"}, "provider is 'Azure'"),
        ("cloud:aws:disk", {"disk_name": "vol-0123456789abcdef0", "provider": "gcp"}, "provider is 'gcp'"),
        ("cloud:gcp:disk", {"disk_name": "evidence-7", "provider": 7}, "provider"),
        ("cloud:gcp:disk", {"disk_name": "evidence-7", "zon": "us-central1-a"}, "'zon'"),
        ("cloud:gcp:disk", {"disk_name": "evidence-7", "resource_group": "rg"}, "'resource_group'"),
        ("cloud:gcp:disk", {"disk_name": "evidence-7", "snapshot": "s", "id": 4}, "'id', 'snapshot'"),
        ("cloud:gcp:disk", {"disk_name": "evidence-7", "zone": 7}, "zone"),
        ("cloud:gcp:disk", {"disk_name": "evidence-7", "zone": ""}, "zone"),
        ("cloud:gcp:disk", {"disk_name": "evidence-7", "data_type": "cloud:aws:disk"}, "cloud:aws:disk"),
        ("cloud:gcp:disk", {"disk_name": "e", "project": "a", "project_id": "b"}, "two different things"),
        ("cloud:gcp:disk", '{"disk_name": "evidence-7", "disk_name": "evidence-8"}', "twice"),
        ("cloud:cloudmanager:disk", {"disk": "local:plain.raw", "zone": "us-central1-a"}, "'zone'"),
        ("cloud:cloudmanager:disk", {"disk": "local:plain.raw", "disk_name": "other"}, "'disk_name'"),
        ("cloud:cloudmanager:disk", {"disk": "local:plain.raw", "provider": "prod"}, "provider 'prod'"),
    ],
)
def test_what_is_not_understood_or_contradicts_itself_is_refused_by_name(
    describe: Describe, data_type: str, content: object, says: str
) -> None:
    with pytest.raises(DescriptorError, match=re.escape(says)):
        Descriptor.read(describe(data_type, content))


def test_what_openrelik_says_of_every_file_is_no_obstacle(manager: CloudManager, describe: Describe) -> None:
    content = {"disk": "local:plain.raw", "provider": "local", "display_name": "evidence.json", "uuid": "1f"}
    assert named(manager, describe("cloud:cloudmanager:disk", content)) == "local:plain.raw"


def test_a_provider_that_the_service_has_not_is_said(manager: CloudManager, describe: Describe, evidence: str) -> None:
    with pytest.raises(DiskNotNamed, match=r"no provider archive of type gce; it has prod"):
        named(manager, describe("cloud:gcp:disk", {"disk_name": "evidence-7", "provider": "archive"}))


def test_a_disk_that_is_lost_while_it_is_worked_on_is_told_and_the_others_are_given_back(
    manager: CloudManager, daemon: Daemon, own_disk: dict[str, object], gcp_disk: dict[str, object]
) -> None:
    prepared = preprocess([own_disk, gcp_disk], manager=manager, method=AccessMethod.STUB)
    assert isinstance(prepared, PreparedFiles)
    daemon.release(prepared.disks[0].id)
    with pytest.raises(ExportLost):
        postprocess(prepared)
    eventually(lambda: not live(manager))


def test_what_the_task_raises_gives_everything_back(manager: CloudManager, own_disk: dict[str, object]) -> None:
    with pytest.raises(ZeroDivisionError), preprocess([own_disk], manager=manager, method=AccessMethod.FILE):
        raise ZeroDivisionError
    eventually(lambda: not live(manager))
