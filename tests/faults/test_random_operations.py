"""Whatever clients, operators, clouds and clocks do, and in whatever order, the manager does what a simple model says.

The service is a process of its own that is killed at random points. Every run makes the same few sequences, and CI the
same thousands of steps besides (`make test-crashes`), so that neither fails by chance; `FAULT_RUNS` asks for more, and
for others each time (`make test-faults-long`). A sequence that fails there is made as short as possible, is run first
by the next long run until it succeeds, and is printed as Python: keep it in test_kept_operations.py.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum, auto
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from cloudmanager import Access
from cloudmanager.core.errors import (
    AccessConflict,
    AccessDenied,
    CloudUnavailable,
    DeviceMismatch,
    ExportOver,
    NodeDraining,
    ProviderPaused,
)
from cloudmanager.core.model import Export, ExportState
from tests.checkout import ROOT
from tests.core.nbd.client import Client
from tests.faults import invariants
from tests.faults.clouds import MiB
from tests.faults.crashing_world import CrashingWorld, ServiceForker
from tests.faults.file_cloud import SOMEBODY
from tests.faults.world import HOOKS_THAT_FAIL

RUNS = int(os.environ.get("FAULT_RUNS", "0"))
STEPS = 30
FEW, MANY = 24, 70
"""Operations: of every run of the tests, and of each seed besides in CI."""
LEAST_SHARE = 0.85
"""Of the steps that they could have: a sequence may end early."""
SEEDS = range(1, 3)
FAILED = ROOT / ".hypothesis" / "failed"
DISKS = {name: random.Random(name).randbytes(2 * MiB) for name in ("a.img", "b.img")}  # noqa: S311 - any bytes will do
BLOCK = 4096
CLOSE_TO_EXPIRY = 60.0
"""Seconds in which the model does not know whether an export has expired: time passes while the manager settles."""
SOON = st.none() | st.integers(1, 40)
"""At which point a service is killed that is about to do what it is asked for; None: it goes on."""
ERRORS = {
    "unavailable": CloudUnavailable("Not now."),
    "denied": AccessDenied("No."),
    "mismatch": DeviceMismatch("Another disk is there."),
}


class Order(Enum):
    """Of an operator: no new exports of the provider, or on the node."""

    PAUSE = auto()
    DRAIN = auto()


EVERY_TIME = settings(
    max_examples=FEW,
    stateful_step_count=STEPS,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
"""The same sequences each time. One that fails is not made shorter: that takes minutes."""
OTHERS = settings(EVERY_TIME, max_examples=MANY, derandomize=False)
"""Of another seed: the same each time too."""
LONG = settings(
    EVERY_TIME,
    max_examples=RUNS or 1,
    derandomize=False,
    database=DirectoryBasedExampleDatabase(FAILED),
    phases=list(Phase),
)
"""Others each time, and first of all those that have failed before."""


@dataclass
class Claim:
    """What the model knows of an export."""

    disk: str
    access: Access
    expires_boottime: float
    writes: dict[int, bytes] = field(default_factory=dict)
    """To its overlay: offset → what is there."""
    is_lost: bool = False
    """The overlay did not survive a reboot."""
    may_be_lost: bool = False
    """The disk below the overlay was detached by hand, which may have been seen."""

    def excludes(self, disk: str, access: Access) -> bool:
        return self.disk == disk and Access.READ_WRITE in (self.access, access)


class Operations(RuleBasedStateMachine):
    """Requests, faults and restarts; now and then everything has to settle, and is compared with the model."""

    requests = Bundle("requests")
    """By number, also those that were refused: which rules can apply must not depend on what the service did."""
    forker: ClassVar[ServiceForker]
    steps: ClassVar[int] = 0
    """Of all sequences together."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="operations-", dir=self.forker.directory))
        self.world = CrashingWorld(self.directory, DISKS, self.forker)
        self.made: list[str | None] = []
        """For each request the id of its export."""
        self.claims: dict[str, Claim] = {}
        self.answered: Counter[tuple[str, str | None]] = Counter()
        """What the service has said that it did: so often an event of an export. It may have done it more often."""
        self.contents = {name: bytearray(content) for name, content in DISKS.items()}
        self.by_hand: set[str] = set()
        self.orders: set[Order] = set()
        self.has_failed_calls = False

    # What clients do

    @rule(
        target=requests,
        disk=st.sampled_from(sorted(DISKS)),
        access=st.sampled_from(Access),
        minutes=st.integers(10, 600),
        crash_after=SOON,
    )
    def request(self, disk: str, access: Access, minutes: int, crash_after: int | None) -> int:
        self._settle()
        self._crash(crash_after)
        self.made.append(self._requested(disk, access, timedelta(minutes=minutes)))
        return len(self.made) - 1

    def _requested(self, disk: str, access: Access, ttl: timedelta) -> str | None:
        in_the_way = [claim for claim in self.claims.values() if claim.excludes(disk, access)]
        key = str(len(self.made))  # so that a client that got no answer can ask again
        try:
            export = self.world.manager.export(f"files:{disk}", access, "client", ttl=ttl, idempotency_key=key)
        except AccessConflict:
            assert in_the_way
            return None
        except (ProviderPaused, NodeDraining):
            assert self.orders
            self._relent()
            return None
        assert not in_the_way
        assert not self.orders
        self.answered["export.claimed", export.id] += 1
        self.claims[export.id] = Claim(disk, access, self._now() + ttl.total_seconds())
        return export.id

    @rule(request=requests, minutes=st.integers(10, 600))
    def renew(self, request: int, minutes: int) -> None:
        ttl = timedelta(minutes=minutes)
        self._settle()
        if (export_id := self.made[request]) is None:
            return
        claim = self.claims.get(export_id)
        try:
            self.world.manager.renew(export_id, ttl)
        except ExportOver:
            assert claim is None
            return
        assert claim is not None
        self.answered["export.renewed", export_id] += 1
        claim.expires_boottime = self._now() + ttl.total_seconds()

    @rule(request=consumes(requests), crash_after=SOON)
    def release(self, request: int, crash_after: int | None) -> None:
        self._crash(crash_after)
        if (export_id := self.made[request]) is not None:
            self.world.manager.release(export_id)
            self.claims.pop(export_id, None)

    @rule(request=requests, block=st.integers(0, 2 * MiB // BLOCK - 1), byte=st.integers(1, 255))
    def write(self, request: int, block: int, byte: int) -> None:
        self._settle()
        export_id = self.made[request] or ""
        claim = self.claims.get(export_id)
        if claim is None or claim.access is Access.READ_ONLY:
            return
        export = self.world.manager.get(export_id)
        data, offset = bytes([byte]) * BLOCK, block * BLOCK
        with Client.greeted(export.port or 0, export.name) as client:
            client.write(offset, data)
            client.flush()
        if claim.access is Access.SCRATCH:
            claim.writes[offset] = data
        else:
            self.contents[claim.disk][offset : offset + BLOCK] = data

    # What happens to the machine

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @rule(points=st.lists(st.integers(0, 40), min_size=1, max_size=3))
    def crash(self, points: list[int]) -> None:
        self.world.crash(points)

    def _crash(self, points: int | None) -> None:
        if points is not None:
            self.world.crash([points])

    @rule(is_power_cut=st.booleans())
    def reboot(self, is_power_cut: bool) -> None:
        self._settle()
        before = self._now()
        if is_power_cut:
            self.world.cut_power()
        else:
            self.world.reboot()
        passed = self._now() - before
        for claim in self.claims.values():
            claim.expires_boottime += passed
            claim.is_lost = claim.access is Access.SCRATCH

    @rule(request=requests)
    def kill_server(self, request: int) -> None:
        if (export_id := self.made[request]) is not None:
            self.world.kill_server(self.world.manager.get(export_id))

    @rule(request=requests)
    def stop_server(self, request: int) -> None:
        """As with SIGSTOP: the process exists and does nothing."""
        if (export_id := self.made[request]) is not None:
            self.world.stop_server(self.world.manager.get(export_id))

    @rule(minutes=st.integers(1, 700))
    def let_time_pass(self, minutes: int) -> None:
        self._settle()  # an export that is not ready for long fails
        self.world.clock.passed += minutes * 60

    @rule(hours=st.integers(-1000, 1000))
    def jump_with_the_wall_clock(self, hours: int) -> None:
        self.world.clock.jumped += timedelta(hours=hours)

    # What clouds and operators do

    @rule(
        hook=st.sampled_from(HOOKS_THAT_FAIL),
        error=st.sampled_from(sorted(ERRORS)),
        is_late=st.booleans(),
    )
    def let_the_cloud_fail(self, hook: str, error: str, is_late: bool) -> None:
        self.has_failed_calls = True
        self.world.hook_faults.spoil(hook, ERRORS[error], is_late=is_late)

    @rule(disk=st.sampled_from(sorted(DISKS)))
    def detach_by_hand(self, disk: str) -> None:
        self.world.file_cloud.take_away(disk)
        self.by_hand.discard(disk)
        for claim in self.claims.values():
            claim.may_be_lost |= claim.disk == disk and claim.access is Access.SCRATCH

    @rule(disk=st.sampled_from(sorted(DISKS)))
    def attach_by_hand(self, disk: str) -> None:
        if self.world.file_cloud.attach(disk, SOMEBODY) == SOMEBODY:
            self.by_hand.add(disk)

    @rule(request=consumes(requests))
    def force_release(self, request: int) -> None:
        if (export_id := self.made[request]) is not None:
            self.world.manager.maintenance.force_release(export_id, "operator", "it must go")
            self.claims.pop(export_id, None)

    @rule(order=st.sampled_from(Order))
    def order(self, order: Order) -> None:
        self.orders.add(order)
        if order is Order.PAUSE:
            self.world.manager.maintenance.pause("files", "operator")
        else:
            self.world.manager.maintenance.drain("here", "operator")

    def _relent(self) -> None:
        self.orders.clear()
        self.world.manager.maintenance.resume("files")
        self.world.manager.maintenance.undrain("here")

    # What must be true

    @invariant()
    def count(self) -> None:
        """Is called after each step."""
        type(self).steps += 1

    @rule()
    def look(self) -> None:
        self._settle()

    def _settle(self) -> None:
        self.world.settle()
        found = {export.id: export for export in invariants.exports(self.world.manager)}
        for export_id, claim in list(self.claims.items()):
            if self._has_ended(found[export_id], claim):
                del self.claims[export_id]
        assert {e.id for e in found.values() if not e.state.is_over} == set(self.claims)
        self.has_failed_calls = False
        self.world.hook_faults.clear()
        assert [*invariants.wrongly_attached(self.world.manager, self.world.attached(), self.by_hand)] == []
        assert [*invariants.contradictions(self.world.manager)] == []
        reported = Counter((event.event, event.export_id) for event in invariants.events(self.world.manager))
        assert [*(self.answered - reported)] == []
        assert [*invariants.not_owned(self.world.manager, self.world.state, self.world.pid)] == []
        for export_id, claim in self.claims.items():
            self._check_bytes(found[export_id], claim)

    def _has_ended(self, export: Export, claim: Claim) -> bool:
        """Whether it is over, which it may be only if it has expired or the cloud has failed."""
        left = claim.expires_boottime - self._now()
        if export.state is ExportState.FAILED:
            assert self.has_failed_calls or claim.is_lost or claim.may_be_lost, export.error
        elif claim.is_lost:
            assert export.state.is_over
        elif abs(left) > CLOSE_TO_EXPIRY:
            assert (left < 0) == export.state.is_over, f"{export.id} is {export.state}, {left:.0f} s before its end"
        return export.state.is_over

    def _check_bytes(self, export: Export, claim: Claim) -> None:
        expected = bytearray(self.contents[claim.disk])
        for offset, data in claim.writes.items():
            expected[offset : offset + BLOCK] = data
        path = self.directory / "expected"
        path.write_bytes(expected)
        assert [*invariants.served_wrongly(export, path)] == []

    def _now(self) -> float:
        return self.world.clock.boottime()

    def teardown(self) -> None:
        try:
            self._settle()
            self.world.end()
        except BaseException:
            self.world.abandon()
            raise
        finally:
            shutil.rmtree(self.directory)


@pytest.fixture
def forker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceForker]:
    forker = ServiceForker(tmp_path_factory.getbasetemp())
    yield forker
    forker.close()


@pytest.mark.slow
@pytest.mark.timeout(0 if RUNS else 1800)
def test_the_manager_does_what_the_model_says(forker: ServiceForker) -> None:
    _run(_operations(forker), LONG if RUNS else EVERY_TIME)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", SEEDS)
def test_the_manager_does_what_the_model_says_in_other_runs(forker: ServiceForker, number: int) -> None:
    _run(seed(number)(_operations(forker)), OTHERS)


def _operations(forker: ServiceForker) -> type[Operations]:
    return type("Operations", (Operations,), {"forker": forker})


def _run(operations: type[Operations], asked: settings) -> None:
    run_state_machine_as_test(operations, settings=asked)
    assert operations.steps >= LEAST_SHARE * asked.max_examples * STEPS
