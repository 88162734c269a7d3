import threading
from concurrent.futures import ThreadPoolExecutor

from cloudmanager.core.workqueue import WorkQueue


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_key_that_is_put_twice_comes_up_once() -> None:
    queue = WorkQueue(Time())
    queue.put("a")
    queue.put("a")
    queue.put("b")
    assert queue.take() == "a"
    assert queue.take() == "b"
    queue.close()
    assert queue.take() is None


def test_a_key_that_is_being_worked_on_comes_up_again_only_when_that_is_done() -> None:
    queue = WorkQueue(Time())
    queue.put("a")
    assert queue.take() == "a"
    queue.put("a")
    queue.put("b")
    assert queue.take() == "b"
    queue.done("a")
    assert queue.take() == "a"


def test_the_earliest_time_counts() -> None:
    time = Time()
    queue = WorkQueue(time)
    queue.put("a", 9.0)
    queue.put("a", 5.0)
    queue.put("a", 7.0)
    queue.put("b", 6.0)
    time.now = 6.0
    assert queue.take() == "a"
    assert queue.take() == "b"
    queue.done("a")
    queue.done("b")
    time.now = 100.0
    queue.put("c")
    assert queue.take() == "c"


def test_a_later_time_that_was_set_while_working_is_kept() -> None:
    time = Time()
    queue = WorkQueue(time)
    queue.put("a")
    assert queue.take() == "a"
    queue.put("a", 5.0)
    queue.done("a")
    queue.put("b")
    assert queue.take() == "b"
    time.now = 5.0
    assert queue.take() == "a"


def test_a_waiting_thread_is_woken_by_a_put_and_by_a_close() -> None:
    queue = WorkQueue(Time())
    with ThreadPoolExecutor(2) as pool:
        taken = [pool.submit(queue.take), pool.submit(queue.take)]
        queue.put("a")
        queue.close()
        assert sorted(str(each.result(5)) for each in taken) in (["None", "a"], ["None", "None"])


def test_no_key_is_ever_worked_on_by_two_threads() -> None:
    queue = WorkQueue(Time())
    working: set[str] = set()
    clashes: list[str] = []
    left = threading.Semaphore(0)

    def work() -> None:
        while (key := queue.take()) is not None:
            if key in working:
                clashes.append(key)
            working.add(key)
            left.release()
            working.discard(key)
            queue.done(key)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(2000):
        queue.put(str(number % 7))
    assert left.acquire(timeout=5)
    queue.close()
    for thread in threads:
        thread.join(5)
    assert not clashes


def test_a_clock_that_jumps_ahead_while_a_thread_waits_is_noticed_at_the_next_put() -> None:
    time = Time()
    queue = WorkQueue(time)
    queue.put("a", 1000.0)
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(queue.take)
        while not queue._changed._waiters:  # type: ignore[attr-defined]  # until the thread waits
            pass
        time.now = 2000.0
        queue.put("a")
        assert taken.result(5) == "a"


def test_what_is_asked_for_again_and_again_before_it_is_due_takes_no_more_room() -> None:
    now = 0.0
    queue = WorkQueue(lambda: now)
    for number in range(10_000):
        key = f"disk-{number % 5}"
        queue.put(key)
        assert queue.take() is not None
        queue.put(key, 3600.0 + number)  # as an expiry is
        queue.done(key)
    assert len(queue._order) < 200
    now = 20_000.0
    assert sorted(queue.take() or "" for _ in range(5)) == [f"disk-{number}" for number in range(5)]
