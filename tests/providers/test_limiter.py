"""The limiter that all cloud providers use: few calls while a cloud refuses them, and the pace that it reports."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from cloudmanager.core.errors import CloudUnavailable, DiskNotFound, Throttled
from cloudmanager.providers._limiter import Limiter
from cloudmanager.providers._shared_look import SharedLook


def limiter(attempts: int = 4, timeout: float = 30, **kinds: float) -> Limiter:
    return Limiter(attempts=attempts, timeout=timeout, refills=kinds)


class Cloud:
    """Refuses calls until it is told to answer."""

    def __init__(self, *, retry_after: float | None = None) -> None:
        self.calls = 0
        self.is_refusing = True
        self.most_at_once = 0
        self._at_once = 0
        self._retry_after = retry_after
        self._lock = threading.Lock()

    def __call__(self) -> str:
        with self._lock:
            self.calls += 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if self.is_refusing:
                raise Throttled("slower", cloud_code="RequestLimitExceeded", retry_after=self._retry_after)
            return "done"
        finally:
            with self._lock:
                self._at_once -= 1


def test_many_threads_make_few_calls_while_the_cloud_refuses_them() -> None:
    """25 threads, each of which tries again and again for three seconds: 0.5, 1 and 2 seconds are paused at most."""
    cloud, pace, end = Cloud(), limiter(attempts=100, timeout=3), time.monotonic() + 3

    def work(_: int) -> None:
        while time.monotonic() < end:
            with suppress(Throttled):
                pace.read("AttachVolume", cloud)

    with ThreadPoolExecutor(25) as pool:
        list(pool.map(work, range(25)))
    assert cloud.calls <= 8 + 12  # those in flight before the first answer, and the probes


def test_all_are_answered_once_the_cloud_answers_again() -> None:
    cloud, pace = Cloud(), limiter(attempts=100)
    with ThreadPoolExecutor(25) as pool:
        answers = [pool.submit(pace.read, "AttachVolume", cloud) for _ in range(25)]
        while cloud.calls < 3:
            time.sleep(0.01)
        cloud.is_refusing = False
        assert [answer.result(60) for answer in answers] == ["done"] * 25


def test_a_refused_kind_of_call_holds_up_no_other() -> None:
    cloud, pace = Cloud(retry_after=3600), limiter()
    with pytest.raises(Throttled):
        pace.read("AttachVolume", cloud)
    assert pace.read("DescribeVolumes", lambda: "volumes") == "volumes"


def test_who_would_wait_too_long_is_refused_without_a_call() -> None:
    """With the error of the cloud, and the time that is left."""
    cloud, pace = Cloud(retry_after=3600), limiter()
    with pytest.raises(Throttled):
        pace.change("AttachVolume", cloud)
    with pytest.raises(Throttled) as caught:
        pace.change("AttachVolume", cloud)
    assert cloud.calls == 1
    assert caught.value.cloud_code == "RequestLimitExceeded"
    assert caught.value.retry_after is not None
    assert 3000 < caught.value.retry_after <= 3600


def test_one_call_tries_whether_the_cloud_answers_again() -> None:
    cloud, pace = Cloud(retry_after=0.1), limiter(attempts=100, timeout=2)
    with suppress(Throttled):
        pace.change("AttachVolume", cloud)
    cloud.most_at_once = 0
    with ThreadPoolExecutor(10) as pool:
        for waiting in [pool.submit(pace.read, "AttachVolume", cloud, timeout=0.5) for _ in range(10)]:
            waiting.exception(10)
    assert cloud.most_at_once == 1


def test_an_answer_that_is_an_error_of_the_request_ends_the_back_off() -> None:
    cloud, pace = Cloud(retry_after=0), limiter()
    with suppress(Throttled):
        pace.change("disks.get", cloud)

    def missing() -> None:
        raise DiskNotFound("no")

    with pytest.raises(DiskNotFound):
        pace.change("disks.get", missing)
    assert pace.wait("disks.get") < 1
    barrier = threading.Barrier(2, timeout=10)
    with ThreadPoolExecutor(2) as pool:  # both at once: it is no probe any more
        list(pool.map(lambda _: pace.change("disks.get", barrier.wait), range(2)))


def test_the_tokens_that_the_cloud_reports_are_not_exceeded() -> None:
    pace = limiter(machine=5.0)

    def call(remaining: int) -> Callable[[], None]:
        return lambda: pace.remaining("machine", remaining)

    pace.change("machine", call(0))
    assert 0 < pace.wait("machine") <= 0.2
    started = time.monotonic()
    pace.change("machine", lambda: None)
    assert time.monotonic() - started >= 0.1


def test_nothing_is_limited_where_the_cloud_reports_nothing() -> None:
    pace = limiter(machine=0.001)
    for _ in range(100):
        pace.change("machine", lambda: None)
    assert pace.wait("machine") == 0


def test_calls_that_wait_for_something_do_not_hold_up_others() -> None:
    pace = Limiter(attempts=1, timeout=10, blocking=["operations.wait"])
    barrier = threading.Barrier(20, timeout=10)
    with ThreadPoolExecutor(20) as pool:
        assert len(list(pool.map(lambda _: pace.read("operations.wait", barrier.wait), range(20)))) == 20


def test_an_outage_is_no_refusal() -> None:
    pace = limiter(attempts=1)

    def broken() -> None:
        raise CloudUnavailable("no connection")

    with pytest.raises(CloudUnavailable):
        pace.read("disks.get", broken)
    assert pace.wait("disks.get") == 0


# One look for all


def test_those_that_look_at_the_same_time_share_a_call() -> None:
    begun, release, calls = threading.Event(), threading.Event(), []

    def call() -> int:
        calls.append(1)
        begun.set()
        assert release.wait(10)
        return len(calls)

    look = SharedLook(call)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(look.look)
        assert begun.wait(10)
        others = [pool.submit(look.look) for _ in range(8)]
        while look.waiting < 8:
            time.sleep(0.01)
        release.set()
        assert first.result(10) == 1
        assert {other.result(10) for other in others} == {2}  # the first call had begun before they asked


def test_a_look_is_as_new_as_it_is_asked_for() -> None:
    calls: list[int] = []

    def call() -> int:
        calls.append(1)
        return len(calls)

    look = SharedLook(call)
    assert [look.look(60), look.look(60), look.look(), look.look(60)] == [1, 1, 2, 2]
    look.outdate()
    assert look.look(60) == 3


def test_a_look_that_fails_is_each_ones_own_error() -> None:
    def call() -> int:
        raise CloudUnavailable("no")

    look = SharedLook(call)
    for _ in range(2):
        with pytest.raises(CloudUnavailable):
            look.look(60)
