"""What a person is told while it runs: how much, how fast, how long still."""

from types import SimpleNamespace

import pytest

from cloudmanager.client.deploy import Phase, options
from cloudmanager.client.deploy.options import Meter

MIB = 1024 * 1024


class Clock:
    """Goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(options, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def test_rate_and_time_left_are_those_of_what_has_to_be_written(clock: Clock) -> None:
    meter = Meter(Phase.WRITING, 100 * MIB)
    clock.now += 2
    reported = meter.read(40 * MIB)
    assert (reported.done_bytes, reported.total_bytes, reported.fraction) == (40 * MIB, 100 * MIB, 0.4)
    assert reported.bytes_per_second == pytest.approx(20 * MIB)
    assert reported.seconds_left == pytest.approx(3)


def test_the_rate_is_that_of_the_last_ten_seconds(clock: Clock) -> None:
    meter = Meter(Phase.WRITING, 1000 * MIB)
    for second in range(1, 31):
        clock.now += 1
        reported = meter.read(10 * MIB * min(second, 10) + MIB * max(0, second - 10))
    assert reported.bytes_per_second == pytest.approx(MIB)


def test_of_a_compressed_file_the_part_that_was_read_tells_the_time_left(clock: Clock) -> None:
    meter = Meter(Phase.WRITING, None)
    clock.now += 5
    reported = meter.read(300 * MIB, 0.25)
    assert reported.total_bytes is None
    assert reported.seconds_left == pytest.approx(15)


def test_of_a_stream_without_an_end_no_time_is_told(clock: Clock) -> None:
    meter = Meter(Phase.WRITING, None)
    clock.now += 5
    reported = meter.read(300 * MIB)
    assert reported.bytes_per_second == pytest.approx(60 * MIB)
    assert (reported.seconds_left, reported.fraction) == (None, None)


def test_lost_work_makes_no_negative_time(clock: Clock) -> None:
    meter = Meter(Phase.WRITING, 100 * MIB)
    clock.now += 1
    meter.read(50 * MIB)
    clock.now += 1
    reported = meter.read(0)
    assert reported.seconds_left is None
    clock.now += 8
    assert (meter.read(120 * MIB).seconds_left or 0) >= 0
