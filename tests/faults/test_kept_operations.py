"""Sequences that failed once: what test_random_operations prints as Python when it fails is kept here as it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloudmanager import Access
from tests.faults.crashing_world import ServiceForker
from tests.faults.test_random_operations import Operations


@pytest.fixture(scope="module")
def forker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceForker]:
    forker = ServiceForker(tmp_path_factory.getbasetemp())
    yield forker
    forker.close()


@pytest.fixture
def state(forker: ServiceForker) -> Iterator[Operations]:
    operations: Operations = type("Operations", (Operations,), {"forker": forker})()
    yield operations
    operations.teardown()


@pytest.mark.parametrize("crash_after", range(20, 28))
def test_a_server_whose_start_was_never_noted_is_found_again(state: Operations, crash_after: int) -> None:
    state.request(access=Access.READ_ONLY, crash_after=crash_after, disk="a.img", minutes=333)
    state.look()


def test_an_overlay_of_a_disk_that_was_detached_by_hand_is_given_up(state: Operations) -> None:
    read_only = state.request(access=Access.READ_ONLY, crash_after=None, disk="b.img", minutes=600)
    state.jump_with_the_wall_clock(hours=98)
    scratch = state.request(access=Access.SCRATCH, crash_after=None, disk="b.img", minutes=399)
    state.let_the_cloud_fail(error="unavailable", hook="plan_attach", is_late=True)
    state.let_the_cloud_fail(error="denied", hook="detach", is_late=True)
    state.detach_by_hand(disk="b.img")
    state.restart()
    state.renew(request=scratch, minutes=94)
    state.renew(request=read_only, minutes=32)
