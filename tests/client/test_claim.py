"""When a claim is looked at and renewed: the decisions alone, with a clock that the test sets."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta

import pytest

from cloudmanager.client import claim as claims
from cloudmanager.client.claim import Claim
from cloudmanager.client.errors import LostReason, Throttled, Unreachable
from cloudmanager.client.exchange import Reply
from cloudmanager.client.model import Access, Export, ExportState

MADE = datetime(2026, 1, 31, 12, tzinfo=UTC)
TTL_SECONDS = 600.0
LOOK = 10.0
EXPORT = Export(
    *("7", "prod:a", Access.READ_ONLY, "me", ExportState.READY, "nbd://h:1/n", 512, "raw"),
    *(MADE, MADE + timedelta(seconds=TTL_SECONDS), "here", "", None, None),
)


class BootClock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> BootClock:
    clock = BootClock()
    monkeypatch.setattr(claims, "now", clock)
    return clock


@pytest.fixture
def claim(clock: BootClock) -> Claim:
    return Claim(EXPORT, None, clock(), clock(), LOOK)


def answer(clock: BootClock, **changes: object) -> Reply:
    fields = {**dataclasses.asdict(EXPORT), **changes}
    text = json.dumps(fields, default=lambda moment: moment.isoformat())
    return Reply(200, {}, text.encode(), clock())


def test_it_is_looked_at_often_and_renewed_after_a_third_of_its_life(claim: Claim, clock: BootClock) -> None:
    methods = []
    while clock() < 1000 + TTL_SECONDS:
        step = claim.next_step()
        clock.seconds += step.after
        methods.append(step.request.method)
        claim.process_reply(step, answer(clock))
    renewals = [at for at, method in enumerate(methods) if method == "POST"]
    assert renewals[0] == TTL_SECONDS / 3 / LOOK - 1
    assert len(renewals) == 3
    assert claim.lost is None


def test_attempts_are_made_up_to_the_end_whatever_pause_the_service_asks_for(claim: Claim, clock: BootClock) -> None:
    attempts = 0
    while claim.lost is None:
        step = claim.next_step()
        clock.seconds += step.after
        attempts += 1
        claim.missed(Throttled("Later.", retry_after=10_000))
        assert attempts < 100
    assert attempts > 10
    assert clock() == pytest.approx(1000 + TTL_SECONDS)
    assert claim.lost.reason is LostReason.EXPIRED


def test_a_pause_that_the_service_asks_for_is_made(claim: Claim) -> None:
    claim.missed(Throttled("Later.", retry_after=60))
    assert claim.next_step().after == 60


def test_a_renewal_that_succeeds_after_failures_is_as_good_as_any(claim: Claim, clock: BootClock) -> None:
    clock.seconds += TTL_SECONDS - 1
    claim.missed(Unreachable("Away."))
    step = claim.next_step()
    assert step.request.method == "POST"
    claim.process_reply(step, answer(clock))
    clock.seconds += TTL_SECONDS - 1
    claim.expire()
    assert claim.lost is None


def test_an_answer_that_was_slow_does_not_make_its_life_longer(claim: Claim, clock: BootClock) -> None:
    clock.seconds += TTL_SECONDS / 2
    step, answered = claim.next_step(), answer(clock)
    assert step.request.method == "POST"
    clock.seconds += 30
    claim.process_reply(step, answered)
    clock.seconds += TTL_SECONDS - 30
    claim.expire()
    assert claim.lost is not None


def test_one_that_may_have_been_made_by_an_earlier_attempt_is_renewed_at_once(clock: BootClock) -> None:
    clock.seconds += TTL_SECONDS
    step = Claim(EXPORT, None, 1000.0, clock(), LOOK).next_step()
    assert (step.request.method, step.after) == ("POST", 0)


def test_one_that_is_being_served_anew_is_not_lost(claim: Claim, clock: BootClock) -> None:
    claim.process_reply(claim.next_step(), answer(clock, state="attaching", uri=None))
    assert claim.lost is None
