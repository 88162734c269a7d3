"""Faults strike the calls that their rules say, and time passes as a test wants it to."""

import threading

from cloudmanager.testing.cloud.calls import Call, CallLog
from cloudmanager.testing.cloud.faults import Effect, Fault, Faults
from cloudmanager.testing.cloud.timeline import Timeline


def test_a_fault_strikes_from_the_nth_call_on_for_so_many_times() -> None:
    faults = Faults()
    faults.add(Fault("attach", Effect.ERROR, nth=2, times=2))
    assert [faults.take("attach") is not None for _ in range(5)] == [False, True, True, False, False]


def test_a_fault_without_an_end_strikes_until_it_is_cleared() -> None:
    faults = Faults()
    faults.add(Fault("attach", Effect.ERROR, times=0))
    assert all(faults.take("attach") for _ in range(10))
    faults.clear()
    assert faults.take("attach") is None


def test_patterns_choose_the_operation_and_its_target() -> None:
    faults = Faults()
    faults.add(Fault("disks.*", Effect.ERROR, times=0, target="evidence-?"))
    assert faults.take("disks.get", "evidence-7")
    assert faults.take("disks.get", "evidence-77") is None
    assert faults.take("instances.get", "evidence-7") is None


def test_of_two_faults_the_older_strikes_and_both_count() -> None:
    faults = Faults()
    first = faults.add(Fault("attach", Effect.ERROR))
    second = faults.add(Fault("attach", Effect.HANG, nth=2))
    assert [faults.take("attach"), faults.take("attach")] == [first, second]


def test_a_stale_read_has_the_state_of_when_the_rule_was_made() -> None:
    state = {"disks": 1}
    faults = Faults(lambda: dict(state))
    faults.add(Fault("get", Effect.STALE))
    state["disks"] = 2
    fault = faults.take("get")
    assert fault is not None
    assert fault.frozen == {"disks": 1}


def test_a_frozen_timeline_moves_only_when_it_is_told_to() -> None:
    timeline = Timeline()
    timeline.freeze()
    done: list[str] = []
    timeline.after(20, lambda: done.append("second"))
    timeline.after(10, lambda: done.append("first"))
    assert done == []
    timeline.advance(15)
    assert done == ["first"]
    timeline.advance(10)
    assert done == ["first", "second"]


def test_the_pace_stretches_what_the_cloud_takes_and_nothing_else() -> None:
    timeline = Timeline(pace=0.5)
    timeline.freeze()
    done: list[str] = []
    timeline.normally(10, lambda: done.append("normal"))
    timeline.after(10, lambda: done.append("exact"))
    timeline.advance(6)
    assert done == ["normal"]


def test_at_pace_zero_all_is_done_at_once() -> None:
    done: list[str] = []
    Timeline(pace=0).normally(3600, lambda: done.append("at once"))
    assert done == ["at once"]


def test_what_is_held_waits_for_its_release() -> None:
    timeline = Timeline()
    done: list[str] = []
    timeline.hold(lambda: done.append("late"))
    timeline.advance(10_000)
    assert done == []
    timeline.release()
    assert done == ["late"]


def test_a_running_timeline_does_what_is_due_without_being_asked() -> None:
    timeline = Timeline()
    timeline.start()
    done = threading.Event()
    timeline.after(0.01, done.set)
    assert done.wait(5)
    timeline.stop()


def test_an_action_that_fails_does_not_stop_the_timeline() -> None:
    timeline = Timeline()
    timeline.freeze()
    done: list[str] = []
    timeline.after(1, lambda: done.remove("nothing"))
    timeline.after(2, lambda: done.append("still here"))
    timeline.advance(3)
    assert done == ["still here"]


def test_the_call_log_tells_mutations_and_those_who_watch() -> None:
    log = CallLog()
    seen: list[Call] = []
    unwatch = log.watch(seen.append)
    read, write = Call("get", "d", mutates=False, status=200), Call("attach", "d", mutates=True, status=200)
    log.add(read)
    log.add(write)
    unwatch()
    log.add(read)
    assert log.mutations() == [write]
    assert seen == [read, write]
    assert len(log) == 3
