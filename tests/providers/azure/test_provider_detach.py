"""The Azure provider detaches what it attached, and nothing else."""

import json
from dataclasses import replace

import pytest

from cloudmanager.core.errors import AccessDenied, CloudUnavailable, ForeignAttachment
from cloudmanager.core.model import CONFIRMED, Attachment
from cloudmanager.core.plugins import Provider
from cloudmanager.providers.azure import proof
from cloudmanager.testing.cloud.azure import AzureEmulation
from cloudmanager.testing.cloud.azure.emulation import ATTACH, GROUP, SUBSCRIPTION
from cloudmanager.testing.cloud.emulator import Operation
from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.cloud.wire import Request, Response
from tests.providers.azure.clients import attach, make_provider, plan_for


def test_a_detached_disk_may_be_detached_again(cloud: AzureEmulation, provider: Provider) -> None:
    cloud.make_disk("evidence-7")
    attachment = attach(provider, "evidence-7")
    for _ in range(3):
        provider.detach(attachment)
    assert len(cloud.calls.mutations()) == 2


def test_a_disk_at_another_lun_was_attached_by_somebody_else_and_stays(
    cloud: AzureEmulation, provider: Provider
) -> None:
    cloud.make_disk("evidence-7")
    attachment = attach(provider, "evidence-7")
    cloud.detach_by_hand("evidence-7", "worker-1")
    cloud.attach_by_hand("evidence-7", "worker-1", slot="4")
    provider.detach(attachment)
    assert cloud.lun("evidence-7", "worker-1") == 4


@pytest.fixture
def again_by_hand(cloud: AzureEmulation, provider: Provider) -> Attachment:
    """One of ours, whose disk was detached and attached again at the same LUN."""
    cloud.make_disk("evidence-7")
    attachment = attach(provider, "evidence-7")
    cloud.detach_by_hand("evidence-7", "worker-1")
    cloud.attach_by_hand("evidence-7", "worker-1", slot=attachment.slot)
    return attachment


def test_a_disk_that_was_attached_again_at_its_lun_is_somebody_elses_and_stays(
    cloud: AzureEmulation, provider: Provider, again_by_hand: Attachment
) -> None:
    with pytest.raises(ForeignAttachment, match="nothing proves"):
        provider.detach(again_by_hand)
    assert cloud.holders("evidence-7") == ["worker-1"]


def test_a_disk_whose_machine_was_stopped_and_started_is_detached(
    cloud: AzureEmulation, provider: Provider, again_by_hand: Attachment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Azure says then that it changed its owner when the machine was started: just before this kernel was."""
    monkeypatch.setattr(proof, "_since_boot", lambda: 30.0)
    provider.detach(again_by_hand)
    assert cloud.holders("evidence-7") == []


def test_a_disk_that_moved_to_another_machine_is_let_be(cloud: AzureEmulation, provider: Provider) -> None:
    cloud.make_disk("evidence-7")
    attachment = attach(provider, "evidence-7")
    cloud.detach_by_hand("evidence-7", "worker-1")
    cloud.attach_by_hand("evidence-7", "worker-2")
    provider.detach(attachment)
    assert cloud.holders("evidence-7") == ["worker-2"]


def test_a_disk_that_was_deleted_is_detached(cloud: AzureEmulation, provider: Provider) -> None:
    cloud.make_disk("evidence-7")
    attachment = attach(provider, "evidence-7")
    cloud.delete_disk("evidence-7")
    provider.detach(attachment)


def test_a_machine_that_is_gone_has_nothing_attached(
    cloud: AzureEmulation, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.make_disk("evidence-7")
    attachment = attach(provider, "evidence-7")
    named = {"subscription_id": SUBSCRIPTION, "vm": f"{GROUP}/worker-1", "metadata_url": "http://127.0.0.1:1"}
    elsewhere = make_provider(cloud, **named)
    for name, value in cloud.environment("worker-2").items():
        monkeypatch.setenv(name, value)
    cloud.delete_instance("worker-1")
    elsewhere.detach(attachment)


def test_what_cannot_be_read_is_not_taken_for_gone(cloud: AzureEmulation, provider: Provider) -> None:
    cloud.make_disk("evidence-7")
    attachment = attach(provider, "evidence-7")
    cloud.faults.add(Fault("VirtualMachines_Get", Effect.ERROR, code="AuthorizationFailed"))
    with pytest.raises(AccessDenied):
        provider.detach(attachment)
    assert cloud.holders("evidence-7") == ["worker-1"]


def test_a_pending_attach_is_not_reversed(cloud: AzureEmulation, provider: Provider) -> None:
    cloud.make_disk("evidence-7")
    cloud.faults.add(Fault(f"{ATTACH}/attach", Effect.HANG))
    with pytest.raises(CloudUnavailable):
        attach(provider, "evidence-7")
    slot = str(cloud.lun("evidence-7", "worker-1"))
    attachment = replace(plan_for(provider, "evidence-7").attachment(), slot=slot, proof=CONFIRMED)
    with pytest.raises(CloudUnavailable):
        provider.detach(attachment)
    assert len(cloud.calls.mutations()) == 1
    cloud.timeline.release()
    provider.detach(attachment)
    assert cloud.holders("evidence-7") == []


def test_a_success_that_the_machine_denies_is_an_error(cloud: AzureEmulation, provider: Provider) -> None:
    cloud.make_disk("evidence-7")
    attachment = attach(provider, "evidence-7")
    cloud.faults.add(Fault(f"{ATTACH}/detach", Effect.LIE))
    with pytest.raises(CloudUnavailable, match="has it"):
        provider.detach(attachment)


def test_a_detach_is_never_forced(cloud: AzureEmulation, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.make_disk("evidence-7")
    attachment = attach(provider, "evidence-7")
    bodies: list[bytes] = []
    perform = cloud.perform

    def keep_body(operation: Operation, request: Request, fault: Fault | None) -> Response:
        bodies.append(request.body)
        return perform(operation, request, fault)

    monkeypatch.setattr(cloud, "perform", keep_body)
    provider.detach(attachment)
    assert [set(json.loads(body)["dataDisksToDetach"][0]) for body in bodies if body] == [{"diskId"}]
