"""The service's own directory is nobody else's: tightened where it is ours, refused where it is not."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudmanager.core.clock import Clock
from cloudmanager.core.doctor.directories import check_directories
from cloudmanager.core.errors import ConfigurationError
from cloudmanager.core.model import Finding, Severity
from cloudmanager.core.settings import from_tables
from cloudmanager.core.statedir import StateDirectory
from cloudmanager.core.store import Store

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
STRANGER = 4711


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """As a service has left it."""
    directory = tmp_path / "state"
    StateDirectory.open(directory).close()
    Store.open(f"sqlite:///{directory / 'cloudmanager.sqlite'}", Clock()).close()
    (directory / "exports" / "e1" / "tls").mkdir(parents=True)
    (directory / "exports" / "e1" / "tls" / "keys.psk").write_text("secret")
    return directory


def open_and_close(directory: Path) -> None:
    StateDirectory.open(directory).close()


def seen(directory: Path) -> list[Finding]:
    """By the doctor."""
    findings = check_directories(from_tables({"server": {"state_dir": str(directory)}}))
    return [finding for finding in findings if finding.subject == "state directory"]


def modes(directory: Path) -> set[int]:
    return {stat.S_IMODE(path.lstat().st_mode) & 0o077 for path in (directory, *directory.rglob("*"))}


def test_a_new_one_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        StateDirectory.open(tmp_path / "new").close()
        Store.open(f"sqlite:///{tmp_path / 'new' / 'cloudmanager.sqlite'}", Clock()).close()
    finally:
        os.umask(before)
    assert modes(tmp_path / "new") == {0}


def test_what_is_too_open_is_closed_and_said(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in (state, *state.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o644)
    assert [finding.severity for finding in seen(state)] == [Severity.WARNING]
    open_and_close(state)
    assert modes(state) == {0}
    assert "cloudmanager.sqlite is open to others (0644): it is now 0600" in caplog.text
    assert [finding.severity for finding in seen(state)] == [Severity.OK]


def test_a_socket_and_a_pipe_are_closed_without_being_opened(state: Path, tmp_path: Path) -> None:
    os.mkfifo(state / "pipe", 0o666)
    with socket.socket(socket.AF_UNIX) as listener:
        descriptor = os.open(state, os.O_PATH)
        listener.bind(f"/proc/self/fd/{descriptor}/socket")
        os.close(descriptor)
    open_and_close(state)
    assert modes(state) == {0}


def link_store(state: Path) -> None:
    (state / "cloudmanager.sqlite").rename(state.parent / "elsewhere")
    (state / "cloudmanager.sqlite").symlink_to(state.parent / "elsewhere")


def link_log(state: Path) -> None:
    (state / "cloudmanager.sqlite-wal").unlink(missing_ok=True)
    (state / "cloudmanager.sqlite-wal").symlink_to("/etc/passwd")


def link_exports(state: Path) -> None:
    (state / "exports").rename(state.parent / "exports")
    (state / "exports").symlink_to(state.parent / "exports")


def link_key(state: Path) -> None:
    (state / "exports" / "e1" / "tls" / "keys.psk").unlink()
    (state / "exports" / "e1" / "tls" / "keys.psk").symlink_to("/etc/shadow")


def link_lock(state: Path) -> None:
    (state / "lock").unlink()
    (state / "lock").symlink_to(state.parent / "made-by-the-lock")


def dangling(state: Path) -> None:
    (state / "node").symlink_to("/nowhere/at/all")


def hard_link(state: Path) -> None:
    (state.parent / "outside").write_text("")
    os.link(state.parent / "outside", state / "last-seen.json")


def link_itself(state: Path) -> None:
    state.rename(state.parent / "real")
    state.symlink_to(state.parent / "real")


def open_parent(state: Path) -> None:
    state.parent.chmod(0o777)


def give(name: str) -> Callable[[Path], None]:
    def to_a_stranger(state: Path) -> None:
        os.chown(state / name, STRANGER, STRANGER)

    to_a_stranger.__name__ = f"foreign {name}"
    return to_a_stranger


def give_parent(state: Path) -> None:
    os.chown(state.parent, STRANGER, STRANGER)


def foreign_and_open_with_a_linked_store(state: Path) -> None:
    link_store(state)
    os.chown(state, STRANGER, STRANGER)
    state.chmod(0o777)


OURS = [link_store, link_log, link_exports, link_key, link_lock, dangling, hard_link, link_itself, open_parent]
FOREIGN = [
    *map(give, (".", "cloudmanager.sqlite", "lock", "exports", "exports/e1", "exports/e1/tls/keys.psk")),
    give_parent,
    foreign_and_open_with_a_linked_store,
]


@pytest.fixture
def spoiled(state: Path, spoil: Callable[[Path], None]) -> Iterator[Path]:
    spoil(state)
    yield state
    state.parent.chmod(0o700)


@pytest.mark.parametrize(
    "spoil",
    [*OURS, *(pytest.param(each, marks=as_root) for each in FOREIGN)],
    ids=lambda spoil: getattr(spoil, "__name__", None),
)
def test_what_is_not_ours_or_leads_elsewhere_is_refused_and_the_doctor_says_so(spoiled: Path) -> None:
    before = {path: path.lstat().st_mtime_ns for path in spoiled.parent.iterdir()}
    with pytest.raises(ConfigurationError, match=r"server\.state_dir: /.+\. [A-Z].+"):
        open_and_close(spoiled)
    assert {path: path.lstat().st_mtime_ns for path in spoiled.parent.iterdir()}.keys() == before.keys()
    assert Severity.PROBLEM in {finding.severity for finding in seen(spoiled)}


def test_a_directory_below_tmp_is_all_right(state: Path) -> None:
    """Everybody may write there, but is held from what is not theirs."""
    state.parent.chmod(0o1777)
    open_and_close(state)


def test_a_link_on_the_way_is_followed_to_what_it_is(state: Path, tmp_path: Path) -> None:
    (tmp_path / "by-link").symlink_to(tmp_path)
    open_and_close(tmp_path / "by-link" / "state")


def test_a_store_that_lies_elsewhere_is_looked_at_too(tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    Store.open(f"sqlite:///{store}", Clock()).close()
    assert stat.S_IMODE(store.stat().st_mode) == 0o600
    store.chmod(0o644)
    Store.open(f"sqlite:///{store}", Clock()).close()
    assert stat.S_IMODE(store.stat().st_mode) == 0o600
    store.rename(tmp_path / "other.sqlite")
    store.symlink_to(tmp_path / "other.sqlite")
    with pytest.raises(ConfigurationError, match="is a symbolic link"):
        Store.open(f"sqlite:///{store}", Clock())
