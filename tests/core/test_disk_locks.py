"""The locks by which the services of one machine know of each other's servers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloudmanager.core.disklocks import DiskLocks, default_directory
from cloudmanager.core.errors import AccessConflict, ConfigurationError, DiskInUse

SERVED, WRITTEN = {"disk": False}, {"disk": True}


@pytest.fixture
def services(tmp_path: Path) -> Iterator[tuple[DiskLocks, DiskLocks]]:
    with ExitStack() as opened:
        made = [DiskLocks.open(tmp_path / "locks", name) for name in ("first", "second")]
        for locks in made:
            opened.callback(locks.close)
        yield made[0], made[1]


def test_readers_share_a_disk(services: tuple[DiskLocks, DiskLocks]) -> None:
    first, second = services
    with first.held(SERVED), second.held(SERVED):
        pass


@pytest.mark.parametrize(("standing", "wanted"), [(SERVED, WRITTEN), (WRITTEN, SERVED), (WRITTEN, WRITTEN)])
def test_a_writer_is_alone_and_whoever_comes_later_is_told_who_has_it(
    services: tuple[DiskLocks, DiskLocks], standing: dict[str, bool], wanted: dict[str, bool]
) -> None:
    first, second = services
    with first.held(standing), pytest.raises(AccessConflict, match="first serves it") as caught, second.held(wanted):
        pass
    assert caught.value.holder is not None
    with second.held(wanted):
        pass


def test_what_is_served_is_not_detached(services: tuple[DiskLocks, DiskLocks]) -> None:
    first, second = services
    with first.held(SERVED), pytest.raises(DiskInUse, match="Another service on this machine") as caught:
        second.detaching("disk").__enter__()
    assert caught.value.retriable


def test_what_is_being_detached_is_served_a_moment_later(services: tuple[DiskLocks, DiskLocks]) -> None:
    first, second = services
    with first.detaching("disk"), pytest.raises(DiskInUse, match="first detaches it") as caught, second.held(SERVED):
        pass
    assert caught.value.retriable


def test_who_has_inherited_a_lock_keeps_it(services: tuple[DiskLocks, DiskLocks]) -> None:
    first, second = services
    with first.held(SERVED) as (descriptor,):
        servers = os.dup(descriptor)
    with pytest.raises(DiskInUse):
        second.detaching("disk").__enter__()
    os.close(servers)
    with second.detaching("disk"):
        pass


def test_what_a_disk_reads_through_is_locked_too(services: tuple[DiskLocks, DiskLocks]) -> None:
    first, second = services
    with first.held({"top": True, "base": False}), pytest.raises(AccessConflict), second.held({"base": True}):
        pass


def test_the_lock_of_a_server_that_was_found_is_taken_again_where_it_has_none(
    services: tuple[DiskLocks, DiskLocks],
) -> None:
    first, second = services
    for descriptor in first.held_again(SERVED):
        with pytest.raises(DiskInUse):
            second.detaching("disk").__enter__()
        os.close(descriptor)
    with first.held(WRITTEN):
        assert first.held_again(WRITTEN) == ()  # the server has it


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_directory_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "locks"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(ConfigurationError, match="may be written by others"):
        DiskLocks.open(directory, "me")


def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "locks"
    directory.mkdir(mode=0o700)
    os.chown(directory, 65534, -1)
    with pytest.raises(ConfigurationError, match="belongs to user 65534"):
        DiskLocks.open(directory, "me")


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "locks").symlink_to("elsewhere")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        DiskLocks.open(tmp_path / "locks", "me")
    assert os.listdir(tmp_path / "elsewhere") == []  # noqa: PTH208 - whether there is anything


def test_a_link_in_the_place_of_a_lock_is_an_error(tmp_path: Path) -> None:
    locks = DiskLocks.open(tmp_path / "locks", "me")
    with locks.held(SERVED):
        pass
    (name,) = os.listdir(tmp_path / "locks")  # noqa: PTH208 - the one name
    (tmp_path / "locks" / name).unlink()
    (tmp_path / "locks" / name).symlink_to("/etc/hostname")
    with pytest.raises(DiskInUse, match="cannot be opened"), locks.held(SERVED):
        pass
    locks.close()


def test_each_user_has_a_directory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_directory() == Path("/run/lock/cloudmanager")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert default_directory() == Path("/run/user/1000/cloudmanager/lock")
