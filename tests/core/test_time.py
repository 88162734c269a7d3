"""How long an export lasts: by the boot clock, whatever the wall clock does, and across reboots."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from cloudmanager import Access
from cloudmanager.core.clock import Clock
from cloudmanager.core.clock_readings import ClockReadings
from cloudmanager.core.manager import Manager
from cloudmanager.core.model import Export, ExportState
from cloudmanager.core.wiring import open_manager
from tests.core.bench import Bench, opened_bench
from tests.waiting import BOUND, eventually

HOUR = 3600.0


class TwoClocks(Clock):
    """A machine whose clocks are set apart."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0
        """Seconds that have passed, for both; suspended or not makes no difference to either."""
        self.jumped = 0.0
        """Seconds by which the wall clock was set forward, or back."""
        self._booted = 0.0

    def boottime(self) -> float:
        return super().boottime() + self.passed - self._booted

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.passed + self.jumped)

    def boot(self) -> None:
        """The boot clock begins at ten seconds again."""
        self._booted += self.boottime() - 10
        self.boot_id = f"after {self.boot_id}"


class TimeBench:
    """A bench whose clocks can be set, with exports that live for two hours."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.clock = TwoClocks()
        bench.manager.close()
        bench.clock = self.clock  # type: ignore[assignment] # the bench only hands it on
        bench.open()

    @property
    def manager(self) -> Manager:
        return self.bench.manager

    def export(self) -> Export:
        asked = self.manager.export("one:a.img", Access.READ_ONLY, "alice", ttl=timedelta(hours=2))
        ready = self.manager.wait(asked.id, BOUND)
        assert ready.state is ExportState.READY
        return ready

    def left(self, export: Export) -> float:
        """Hours until it expires."""
        record = self.manager._store.exports.get(export.id)
        assert record.boot_id == self.clock.boot_id
        return (record.expires_boottime - self.clock.boottime()) / HOUR

    def crash(self, export: Export) -> None:
        """Power is lost: nobody says goodbye."""
        last_seen = self.bench.settings.server.state_dir / "last-seen.json"
        before = last_seen.read_text()
        self.manager.close()
        last_seen.write_text(before)
        self.bench.end_process(export)
        self.clock.boot()

    def shut_down(self, export: Export) -> None:
        self.manager.close()
        self.bench.end_process(export)
        self.clock.boot()

    def noted(self) -> None:
        """Waits until both clocks were noted as they are now."""
        wall = self.clock.now().timestamp()
        last_seen = self.bench.settings.server.state_dir / "last-seen.json"
        reading = ClockReadings(last_seen, self.clock)

        def look() -> bool:
            seen = reading.read()
            return seen is not None and seen.boot_id == self.clock.boot_id and abs(seen.wall - wall) < 60

        eventually(look)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[TimeBench]:
    with opened_bench(tmp_path) as bench:
        yield TimeBench(bench)


@pytest.mark.parametrize("hours", [-1000, -5, 5, 1000])
def test_a_jump_of_the_wall_clock_neither_ends_an_export_nor_keeps_it(bench: TimeBench, hours: float) -> None:
    export = bench.export()
    bench.clock.jumped = hours * HOUR
    bench.bench.restart()
    assert bench.manager.get(export.id).state is ExportState.READY
    bench.clock.passed = 1.9 * HOUR
    bench.bench.restart()
    assert bench.manager.get(export.id).state is ExportState.READY
    bench.clock.passed = 2.1 * HOUR
    assert bench.bench.over(export).state is ExportState.CLOSED


def test_a_renewal_counts_from_now_whatever_the_wall_clock_says(bench: TimeBench) -> None:
    export = bench.export()
    bench.clock.jumped = -5 * HOUR
    bench.manager.renew(export.id, timedelta(hours=1))
    assert bench.left(export) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("hours", [-1000, 5, 1000])
def test_a_jump_before_a_reboot_changes_nothing_of_what_is_left(bench: TimeBench, hours: float) -> None:
    export = bench.export()
    bench.clock.jumped = hours * HOUR
    bench.noted()
    bench.crash(export)
    bench.bench.open()
    assert bench.left(export) == pytest.approx(2, abs=0.05)


def test_the_time_that_a_machine_is_away_counts(bench: TimeBench) -> None:
    export = bench.export()
    bench.clock.passed = 0.5 * HOUR
    bench.shut_down(export)
    bench.clock.passed += HOUR
    bench.bench.open()
    assert bench.left(export) == pytest.approx(0.5, abs=0.05)


def test_an_export_whose_time_was_over_while_the_machine_was_away_does_not_come_back(bench: TimeBench) -> None:
    export = bench.export()
    bench.shut_down(export)
    bench.clock.passed += 3 * HOUR
    bench.bench.open()
    assert bench.bench.over(export).state is ExportState.CLOSED
    events = [event.event for event in bench.manager.audit(export_id=export.id).items]
    assert events.count("export.ready") == 1


def test_a_wall_clock_that_is_set_back_while_the_machine_is_away_gives_nobody_more_time(bench: TimeBench) -> None:
    export = bench.export()
    bench.clock.passed = 0.5 * HOUR
    bench.shut_down(export)
    bench.clock.jumped = -1000 * HOUR
    bench.bench.open()
    assert bench.left(export) == pytest.approx(1.5, abs=0.05)


def test_without_a_note_of_the_clocks_the_longest_life_is_the_bound(bench: TimeBench) -> None:
    export = bench.export()
    bench.shut_down(export)
    (bench.bench.settings.server.state_dir / "last-seen.json").unlink()
    bench.clock.jumped = -1000 * HOUR
    bench.bench.open()
    assert bench.left(export) == pytest.approx(24, abs=0.05)


def test_a_start_that_took_nothing_over_leaves_what_was_noted_of_the_earlier_boot(bench: TimeBench) -> None:
    export = bench.export()
    bench.crash(export)
    open_manager(bench.bench.settings, bench.manager._plugins, bench.clock).close()
    bench.clock.jumped = -5 * HOUR
    bench.bench.open()
    assert bench.left(export) == pytest.approx(2, abs=0.05)


def test_the_end_that_people_are_told_follows_the_clock_that_decides(bench: TimeBench) -> None:
    export = bench.export()
    bench.clock.jumped = -5 * HOUR
    bench.noted()
    bench.crash(export)
    bench.bench.open()
    reported = bench.manager.get(export.id).expires_at - bench.clock.now()
    assert reported.total_seconds() / HOUR == pytest.approx(2, abs=0.05)
