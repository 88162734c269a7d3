"""Random lives that failed once: what a run of test_random_lives that fails prints as Python is kept here as it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloudmanager import Access
from tests.faults.crashing_world import Cradle
from tests.faults.test_random_lives import Lives


@pytest.fixture(scope="module")
def cradle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cradle]:
    cradle = Cradle(tmp_path_factory.getbasetemp())
    yield cradle
    cradle.close()


@pytest.fixture
def state(cradle: Cradle) -> Iterator[Lives]:
    lives: Lives = type("Lives", (Lives,), {"cradle": cradle})()
    yield lives
    lives.teardown()


@pytest.mark.parametrize("crash_after", range(20, 28))
def test_a_server_whose_start_was_never_noted_is_found_again(state: Lives, crash_after: int) -> None:
    state.request(access=Access.READ_ONLY, crash_after=crash_after, disk="a.img", minutes=333)
    state.look()


def test_an_overlay_of_a_disk_that_was_detached_by_hand_is_given_up(state: Lives) -> None:
    read_only = state.request(access=Access.READ_ONLY, crash_after=None, disk="b.img", minutes=600)
    state.jump_with_the_wall_clock(hours=98)
    scratch = state.request(access=Access.SCRATCH, crash_after=None, disk="b.img", minutes=399)
    state.let_the_cloud_fail(error="unavailable", hook="plan_attach", is_late=True)
    state.let_the_cloud_fail(error="denied", hook="detach", is_late=True)
    state.detach_by_hand(disk="b.img")
    state.restart()
    state.renew(request=scratch, minutes=94)
    state.renew(request=read_only, minutes=32)
