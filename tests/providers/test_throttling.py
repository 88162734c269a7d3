"""Many disks at once: the looks of those that wait are shared, and a throttle makes few calls."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.model import Access, Attachment, AttachPlan
from cloudmanager.core.plugins import Provider
from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.conformance.checks import describe
from cloudmanager.testing.conformance.emulated import NEIGHBOUR, NODE, EmulatorHarness
from tests.providers.aws.harness import Ec2Harness
from tests.providers.gce.harness import GceHarness

DISKS = 15
PATIENT = {"attach_timeout_seconds": 60, "request_timeout_seconds": 60, "retry_attempts": 100}


class RoomyHarness(Ec2Harness):
    """On an instance that takes all the disks."""

    def start_machines(self) -> None:
        self.cloud.make_instance(NODE)
        self.cloud.make_instance(NEIGHBOUR)


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[RoomyHarness]:
    with RoomyHarness(tmp_path) as harness:
        yield harness


@pytest.fixture
def gce(tmp_path: Path) -> Iterator[GceHarness]:
    with GceHarness(tmp_path) as harness:
        yield harness


def planned(harness: EmulatorHarness, provider: Provider) -> list[AttachPlan]:
    disks = [describe(provider, harness.make_disk()) for _ in range(DISKS)]
    return [provider.plan_attach(disk, Access.READ_WRITE) for disk in disks]


def attach_all(provider: Provider, plans: list[AttachPlan]) -> list[Attachment | CloudManagerError]:
    def attach(plan: AttachPlan) -> Attachment | CloudManagerError:
        try:
            return provider.attach(plan)
        except CloudManagerError as error:
            return error

    with ThreadPoolExecutor(len(plans)) as pool:
        return list(pool.map(attach, plans))


def throttled_for(harness: EmulatorHarness, operation: str, seconds: float) -> threading.Timer:
    harness.cloud.faults.add(Fault(operation, Effect.THROTTLE, times=0))
    timer = threading.Timer(seconds, harness.cloud.faults.clear)
    timer.start()
    return timer


def counted(harness: EmulatorHarness) -> Counter[str]:
    return Counter(call.operation for call in harness.calls)


def test_a_throttle_of_ec2_makes_few_calls_and_no_error(aws: RoomyHarness) -> None:
    provider = aws.make_provider("disks", **PATIENT)
    plans = planned(aws, provider)
    aws.calls.clear()
    timer = throttled_for(aws, "AttachVolume", 4)
    attached = attach_all(provider, plans)
    timer.join()
    assert [type(each) for each in attached] == [Attachment] * DISKS
    refused = [call for call in aws.calls if call.operation == "AttachVolume" and call.status != 200]
    assert 1 <= len(refused) <= 8 + 6  # those in flight at first, then one at a time, at growing distances


def test_looks_at_volumes_are_shared(aws: RoomyHarness) -> None:
    provider = aws.make_provider("disks", **PATIENT)
    plans = planned(aws, provider)
    aws.calls.clear()
    assert [type(each) for each in attach_all(provider, plans)] == [Attachment] * DISKS
    assert counted(aws)["AttachVolume"] == DISKS
    assert counted(aws)["DescribeVolumes"] < 2 * DISKS  # two each, did they look alone


def test_a_volume_that_is_gone_spoils_no_other_s_look(aws: RoomyHarness) -> None:
    provider = aws.make_provider("disks", **PATIENT)
    plans = planned(aws, provider)
    aws.delete_disk(plans[3].disk.id.native)
    attached = attach_all(provider, plans)
    assert isinstance(attached[3], CloudManagerError)
    assert sum(isinstance(each, Attachment) for each in attached) == DISKS - 1


def test_a_throttle_of_compute_engine_makes_few_calls_and_no_error(gce: GceHarness) -> None:
    provider = gce.make_provider("disks", **PATIENT)
    plans = planned(gce, provider)
    gce.calls.clear()
    timer = throttled_for(gce, "instances.get", 4)
    attached = attach_all(provider, plans)
    timer.join()
    assert [type(each) for each in attached] == [Attachment] * DISKS
    assert len([call for call in gce.calls if call.operation == "instances.get" and call.status != 200]) <= 8 + 6
    assert counted(gce)["instances.get"] <= 8 + 6 + DISKS
