"""Attaches and detaches of one machine that wait at the same time go in one update; one that fails stops no other."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from cloudmanager.core.errors import AttachLimit, CloudManagerError, DiskInUse, DiskNotFound, Throttled
from cloudmanager.core.model import Access, Attachment, AttachPlan, Device
from cloudmanager.core.plugins import Provider
from cloudmanager.testing.cloud.azure import AzureEmulation
from cloudmanager.testing.cloud.azure.emulation import ATTACH
from cloudmanager.testing.cloud.faults import Effect, Fault
from tests.providers.azure.clients import describe, make_provider

PATIENT: dict[str, float] = {"attach_timeout_seconds": 60, "detach_timeout_seconds": 60, "poll_seconds": 0.05}


@pytest.fixture
def patient(cloud: AzureEmulation, identity: None) -> Provider:
    return make_provider(cloud, "worker-1", "prod", **PATIENT)


def plans_of(provider: Provider, cloud: AzureEmulation, count: int) -> list[AttachPlan]:
    for number in range(count):
        cloud.make_disk(f"evidence-{number}", size_bytes=64 * 1024)
    disks = [describe(provider, f"evidence-{number}") for number in range(count)]
    return [provider.plan_attach(disk, Access.READ_ONLY) for disk in disks]


def together(calls: Sequence[Callable[[], Attachment | None]]) -> list[Attachment | CloudManagerError | None]:
    """What each of the calls returns or raises; they are made at the same time."""

    def run(call: Callable[[], Attachment | None]) -> Attachment | CloudManagerError | None:
        try:
            return call()
        except CloudManagerError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def attach_all(provider: Provider, plans: Sequence[AttachPlan]) -> list[Attachment | CloudManagerError | None]:
    return together([lambda plan=plan: provider.attach(plan) for plan in plans])  # type: ignore[misc]


def updates(cloud: AzureEmulation) -> list[list[str]]:
    return [call.target.split(",") for call in cloud.calls.mutations()]


def test_attaches_that_wait_at_the_same_time_are_one_update(cloud: AzureEmulation, patient: Provider) -> None:
    plans = plans_of(patient, cloud, 8)
    cloud.calls.clear()
    attached = attach_all(patient, plans)
    assert [type(each) for each in attached] == [Attachment] * 8
    assert len(updates(cloud)) == 1
    machine_looks = [call for call in cloud.calls if call.operation == "VirtualMachines_Get"]
    assert len(machine_looks) == 2  # before and after, for all
    for plan in plans:
        assert isinstance(patient.locate(plan.disk), Device)


def test_attaches_and_detaches_go_together(cloud: AzureEmulation, patient: Provider) -> None:
    plans = plans_of(patient, cloud, 6)
    first = [each for each in attach_all(patient, plans[:3]) if isinstance(each, Attachment)]
    cloud.faults.add(Fault(f"{ATTACH}/attach", Effect.LATE, seconds=0.5, times=1))
    cloud.calls.clear()
    ahead = threading.Thread(target=lambda: patient.attach(plans[3]))  # runs while the others come
    ahead.start()
    while not cloud.calls.mutations():
        pass
    calls: list[Callable[[], Attachment | None]] = [lambda each=each: patient.detach(each) for each in first]  # type: ignore[misc]
    calls += [lambda plan=plan: patient.attach(plan) for plan in plans[4:]]  # type: ignore[misc]
    done = together(calls)
    ahead.join()
    assert [each for each in done if isinstance(each, CloudManagerError)] == []
    assert len(updates(cloud)) <= 3
    assert any(len(names) > 2 for names in updates(cloud))
    assert [cloud.holders(f"evidence-{number}") for number in range(6)] == [[]] * 3 + [["worker-1"]] * 3


def test_a_disk_that_is_gone_stops_no_other(cloud: AzureEmulation, patient: Provider) -> None:
    plans = plans_of(patient, cloud, 4)
    cloud.delete_disk("evidence-2")
    attached = attach_all(patient, plans)
    assert isinstance(attached[2], DiskNotFound)
    assert [type(attached[number]) for number in (0, 1, 3)] == [Attachment] * 3
    assert len(updates(cloud)) == 2  # one was refused and names the disk


def test_a_disk_that_azure_finds_in_use_later_stops_no_other(cloud: AzureEmulation, patient: Provider) -> None:
    """The update is accepted, and fails: Azure finds out when it carries it out."""
    plans = plans_of(patient, cloud, 4)
    cloud.attach_by_hand("evidence-1", "worker-2")
    attached = attach_all(patient, plans)
    assert isinstance(attached[1], DiskInUse)
    assert [type(attached[number]) for number in (0, 2, 3)] == [Attachment] * 3


def test_an_error_that_names_no_disk_is_found_by_halving(cloud: AzureEmulation, patient: Provider) -> None:
    plans = plans_of(patient, cloud, 4)
    fault = Fault(f"{ATTACH}/attach", Effect.ERROR, times=0, target="*evidence-3*", code="SomethingNew", status=400)
    cloud.faults.add(fault)
    attached = attach_all(patient, plans)
    assert isinstance(attached[3], CloudManagerError)
    assert [type(each) for each in attached[:3]] == [Attachment] * 3


def test_as_many_as_the_machine_takes_are_attached(cloud: AzureEmulation, identity: None) -> None:
    cloud.make_instance("small-1", size="Standard_D2s_v5")
    provider = make_provider(cloud, "small-1", "prod", **PATIENT)
    attached = attach_all(provider, plans_of(provider, cloud, 6))
    assert sum(isinstance(each, Attachment) for each in attached) == 4
    assert sum(isinstance(each, AttachLimit) for each in attached) == 2


def test_a_throttled_update_is_sent_again_when_azure_allows_it(cloud: AzureEmulation, patient: Provider) -> None:
    plans = plans_of(patient, cloud, 4)
    cloud.faults.add(Fault(f"{ATTACH}/attach", Effect.THROTTLE, retry_after=1))
    cloud.calls.clear()
    assert [type(each) for each in attach_all(patient, plans)] == [Attachment] * 4
    assert [call.status for call in cloud.calls.mutations()] == [429, 200]


def test_a_throttle_that_lasts_is_everybodys_error(cloud: AzureEmulation, identity: None) -> None:
    provider = make_provider(cloud, "worker-1", "prod", **(PATIENT | {"attach_timeout_seconds": 3}))
    plans = plans_of(provider, cloud, 4)
    cloud.faults.add(Fault(f"{ATTACH}/attach", Effect.THROTTLE, times=0, retry_after=60))
    cloud.calls.clear()
    attached = attach_all(provider, plans)
    assert [type(each) for each in attached] == [Throttled] * 4
    assert len(cloud.calls.mutations()) == 1


def test_an_update_that_was_lost_in_part_is_looked_at(cloud: AzureEmulation, patient: Provider) -> None:
    """The connection breaks after Azure has accepted it: each disk is judged by what the machine has."""
    plans = plans_of(patient, cloud, 3)
    cloud.faults.add(Fault(f"{ATTACH}/attach", Effect.CUT_AFTER))
    attached = attach_all(patient, plans)
    assert [each.request_id for each in attached if isinstance(each, Attachment)] == [plan.request_id for plan in plans]


def test_who_waits_for_a_place_makes_no_calls(cloud: AzureEmulation, identity: None) -> None:
    cloud.make_instance("small-1", size="Standard_D2s_v5")
    provider = make_provider(cloud, "small-1", "prod", **PATIENT)
    plans = plans_of(provider, cloud, 5)
    attached = attach_all(provider, plans)
    with pytest.raises(AttachLimit):
        provider.attach(left_out(attached, plans))  # looks once more
    cloud.calls.clear()
    with pytest.raises(AttachLimit) as caught:
        provider.attach(left_out(attached, plans))
    assert caught.value.retriable
    assert list(cloud.calls) == []
    provider.detach(next(each for each in attached if isinstance(each, Attachment)))
    assert isinstance(provider.attach(left_out(attached, plans)), Attachment)


def left_out(attached: Sequence[Attachment | CloudManagerError | None], plans: Sequence[AttachPlan]) -> AttachPlan:
    return next(plan for plan, done in zip(plans, attached, strict=True) if isinstance(done, AttachLimit))
