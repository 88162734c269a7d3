"""Two services never act under one node's name: the second does not start, and one that has lost its name stops."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import update

from cloudmanager.core.errors import ConfigurationError, NodeDisplaced
from cloudmanager.core.model import ExportState, Severity
from cloudmanager.core.nodeidentity import MachineMarks, NodeIdentity
from cloudmanager.core.nodesession import SESSION_SECONDS, NodeSession
from cloudmanager.core.settings import Settings
from cloudmanager.core.store import Store, schema
from tests.core.bench import Bench, SettableClock, opened_bench

HERE = MachineMarks({"machine_id": "a", "product_uuid": "b"})
ELSEWHERE = MachineMarks({"machine_id": "a", "product_uuid": "c"})
"""A clone: of the same image, and another virtual machine."""
Begin = Callable[..., NodeSession]


@pytest.fixture
def begin(url: str) -> Iterator[Begin]:
    """`begin(identity, boot_id="…")` is a session of the name `here`, on a store of its own."""
    begun: list[NodeSession] = []
    stores: list[Store] = []

    def make(
        identity: str,
        *,
        boot_id: str = "one boot",
        wait: Callable[[float], object] | None = None,
        session_seconds: float = SESSION_SECONDS,
    ) -> NodeSession:
        clock = SettableClock()
        clock.boot_id = boot_id
        stores.append(Store.open(url, clock))
        session = NodeSession(
            "here",
            NodeIdentity(identity, HERE),
            stores[-1],
            clock,
            session_seconds=session_seconds,
            heartbeat_seconds=600,
        )
        session.begin(wait or (lambda _: pytest.fail("it waits")))
        begun.append(session)
        return session

    yield make
    for session in begun:
        session.end()
    for store in stores:
        store.close()


def test_a_second_service_is_refused_and_told_who_the_first_is(begin: Begin) -> None:
    begin("first")
    with pytest.raises(ConfigurationError) as caught:
        begin("second")
    arguments = caught.value.detail
    for part in ("here is the name of a cloudmanager that runs on", "machine_id", "since 20", "[server] node", " s."):
        assert part in arguments.replace("product_uuid", "machine_id")


def test_the_same_service_starts_again_at_once_after_it_was_killed(begin: Begin) -> None:
    begin("first")
    begin("first").check()


def test_a_name_is_free_as_soon_as_its_service_has_ended(begin: Begin) -> None:
    begin("first").end()
    begin("second").check()


def test_a_name_is_free_when_its_service_has_not_been_seen_for_long_enough(begin: Begin) -> None:
    begin("first", session_seconds=0.0)
    begin("second").check()


def test_the_name_of_a_service_that_lives_is_renewed(begin: Begin) -> None:
    first = begin("first", session_seconds=0.0)
    first.session_seconds = SESSION_SECONDS
    first.check()
    with pytest.raises(ConfigurationError):
        begin("second")


def test_who_has_lost_the_name_is_told_by_whom_it_was_taken(begin: Begin) -> None:
    first = begin("first", session_seconds=0.0)
    begin("second")
    with pytest.raises(NodeDisplaced, match=r"a cloudmanager on .* has it"):
        first.check()
    assert [finding.severity for finding in first.findings()] == [Severity.PROBLEM]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_copy_of_the_whole_machine_is_refused_while_the_first_shows_a_sign_of_life(begin: Begin) -> None:
    """It has the same state and the same marks: that it is no reboot, only the first one's heartbeat tells."""
    first = begin("first", boot_id="one boot")
    with pytest.raises(ConfigurationError, match="that runs on"):
        begin("first", boot_id="another boot", wait=lambda _: first._renew())


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_after_a_reboot_the_service_waits_for_the_end_of_its_own_session(begin: Begin) -> None:
    first = begin("first", boot_id="one boot", session_seconds=1.0)
    begin("first", boot_id="another boot", session_seconds=1.0, wait=first._ending.wait).check()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_on_a_store_of_one_machine_a_reboot_needs_no_wait(begin: Begin) -> None:
    begin("first", boot_id="one boot")
    begin("first", boot_id="another boot").check()


def test_an_identity_is_kept_with_the_state(tmp_path: Path) -> None:
    file = tmp_path / "identity.json"
    first = NodeIdentity.of(file, HERE)
    assert NodeIdentity.of(file, HERE).id == first.id
    assert file.stat().st_mode & 0o077 == 0


def test_a_state_directory_that_was_copied_to_another_machine_is_another_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "identity.json"
    first = NodeIdentity.of(file, HERE)
    copy = NodeIdentity.of(file, ELSEWHERE)
    assert (copy.id != first.id, copy.is_from_elsewhere, copy.related) == (True, True, (copy.id,))
    assert "was copied from another machine" in caplog.text
    again = NodeIdentity.of(file, ELSEWHERE)
    assert (again.id, again.is_from_elsewhere) == (copy.id, False)


def test_a_copy_of_a_state_directory_on_its_machine_is_another_node(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    first = NodeIdentity.of(state / "identity.json", HERE)
    shutil.copytree(state, tmp_path / "copy")
    copy = NodeIdentity.of(tmp_path / "copy/identity.json", HERE)
    assert (copy.id != first.id, copy.related) == (True, (first.id, copy.id))
    assert NodeIdentity.of(tmp_path / "copy/identity.json", HERE) == copy
    shutil.copytree(tmp_path / "copy", tmp_path / "third")
    third = NodeIdentity.of(tmp_path / "third/identity.json", HERE)
    assert third.related == (first.id, copy.id, third.id)


def test_a_state_directory_that_was_moved_is_the_same_node(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    first = NodeIdentity.of(tmp_path / "state/identity.json", HERE)
    (tmp_path / "state").rename(tmp_path / "moved")
    assert NodeIdentity.of(tmp_path / "moved/identity.json", HERE) == first


def test_a_directory_of_an_older_version_is_known_from_now_on(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "identity.json").write_text(json.dumps({"id": "x", "machine": {"marks": dict(HERE.marks)}}))
    assert NodeIdentity.of(state / "identity.json", HERE).id == "x"
    shutil.copytree(state, tmp_path / "copy")
    assert NodeIdentity.of(tmp_path / "copy/identity.json", HERE).id != "x"


def test_a_machine_id_that_was_changed_in_place_changes_nothing(tmp_path: Path) -> None:
    """Nothing else says which machine this is, in a container say; the boot and the directory are the same."""
    file = tmp_path / "identity.json"
    first = NodeIdentity.of(file, MachineMarks({"machine_id": "a"}), boot="one boot")
    assert NodeIdentity.of(file, MachineMarks({"machine_id": "b"}), boot="one boot").id == first.id
    other = NodeIdentity.of(file, MachineMarks({"machine_id": "c"}), boot="another boot")
    assert (other.id != first.id, other.is_from_elsewhere) == (True, False)


def test_a_machine_id_that_was_changed_tells_no_machine_apart_whose_board_is_the_same(tmp_path: Path) -> None:
    file = tmp_path / "identity.json"
    first = NodeIdentity.of(file, HERE)
    changed = MachineMarks({"machine_id": "b", "product_uuid": "b"})
    assert NodeIdentity.of(file, changed, boot="another boot").id == first.id


def test_a_mark_that_cannot_be_read_proves_no_copy(tmp_path: Path) -> None:
    file = tmp_path / "identity.json"
    first = NodeIdentity.of(file, HERE)
    assert NodeIdentity.of(file, MachineMarks({"machine_id": "a"})).id == first.id


def test_a_damaged_identity_is_no_new_one(tmp_path: Path) -> None:
    file = tmp_path / "identity.json"
    for damage in ("", "[]", json.dumps({"id": "x"})):
        file.write_text(damage)
        with pytest.raises(ConfigurationError, match="is damaged"):
            NodeIdentity.of(file, HERE)


def test_a_copied_state_directory_takes_nothing_of_the_former_nodes(url: str) -> None:
    """Its machine has another name by now: what the store has under the former one is still the first machine's."""
    with closing(Store.open(url, SettableClock())) as store:
        store.nodes.begin_session("first", "a session", "the first one", "a machine", 30)
        store.rename_node("first", "second", "the copy")
        assert [node.name for node in store.nodes.all()] == ["first"]
        store.rename_node("first", "second", "the first one")
        assert [node.name for node in store.nodes.all()] == ["second"]


@pytest.fixture
def fleet_url(postgres_url: str, tmp_path: Path) -> str:
    import psycopg

    name = f"f{abs(hash(tmp_path)):x}"
    with psycopg.connect(postgres_url.replace("+psycopg", "") + "/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return f"{postgres_url}/{name}"


def test_the_second_of_two_services_with_one_name_does_not_start_and_harms_nothing(
    tmp_path: Path, fleet_url: str
) -> None:
    with opened_bench(tmp_path, fleet_url) as bench:
        export = bench.ready()
        pid = bench.server_pid(export)
        first, before = bench.manager, bench.settings
        bench.settings = _with_state(before, tmp_path / "another state")
        with pytest.raises(ConfigurationError, match="here is the name of a cloudmanager"):
            bench.open()
        bench.manager.close()
        bench.manager, bench.settings = first, before
        now = first.get(export.id)
        assert (now.state, now.error, bench.server_pid(now)) == (ExportState.READY, None, pid)
        assert not [finding for finding in first.readiness() if finding.severity is Severity.PROBLEM]


@pytest.mark.parametrize("where", ["a store of its own", "one store"])
def test_a_copy_of_a_running_services_state_directory_starts_no_service(
    where: str, tmp_path: Path, fleet_url: str
) -> None:
    """It would find the first one's servers, and end them."""
    with opened_bench(tmp_path, fleet_url if where == "one store" else "") as bench:
        export = bench.ready()
        pid = bench.server_pid(export)
        first, before = bench.manager, bench.settings
        subprocess.run(["cp", "--archive", tmp_path / "state", tmp_path / "copy"], check=False)  # sockets come and go
        bench.settings = _with_state(before, tmp_path / "copy")
        with pytest.raises(ConfigurationError, match="one is a copy of the other"):
            bench.open()
        bench.manager.close()
        bench.manager, bench.settings = first, before
        assert bench.server_pid(first.get(export.id)) == pid
        assert first.get(export.id).state is ExportState.READY


def test_what_a_copy_from_another_machine_calls_its_disks_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened_bench(tmp_path) as bench:
        bench.manager.close()
        kept = tmp_path / "state/providers/machine"
        kept.write_text("the former machine")
        monkeypatch.setattr(MachineMarks, "here", lambda: HERE)
        bench.open().close()
        assert kept.exists()
        monkeypatch.setattr(MachineMarks, "here", lambda: ELSEWHERE)
        bench.clock.boot_id = "another boot"
        bench.open()
        assert not kept.exists()


def test_a_service_that_was_suspended_and_has_lost_its_name_does_nothing_any_more(
    tmp_path: Path, fleet_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with opened_bench(tmp_path, fleet_url) as bench:
        export = bench.ready()
        bench.shelf.calls.clear()
        _take_name(bench)
        bench.clock.ahead += SESSION_SECONDS + 1  # as the clock is after a suspension
        with pytest.raises(NodeDisplaced):
            bench.manager.export("one:b.img", export.access, "bob")
        bench.manager._reconciler.converge = lambda _: pytest.fail("it converges")  # type: ignore[assignment,method-assign] # a trap
        bench.manager.release(export.id)
        bench.manager._reconciler.poke(export.disk.canonical_id)
        assert "has lost the name here" in caplog.text
        (finding,) = [each for each in bench.manager.readiness() if each.severity is Severity.PROBLEM]
        assert finding.subject == "node"
        bench.manager.close()
        _free_name(bench)
        bench.open()


def _with_state(settings: Settings, directory: Path) -> Settings:
    return settings.model_copy(update={"server": settings.server.model_copy(update={"state_dir": directory})})


def _take_name(bench: Bench) -> None:
    """Another service does, after the name was free for a moment."""
    _free_name(bench)
    assert bench.manager._store.nodes.begin_session("here", "another", "somebody", "worker-9", 600) is None


def _free_name(bench: Bench) -> None:
    with closing(Store.open(bench.settings.store_url, bench.clock)) as store, store._write() as connection:
        connection.execute(update(schema.nodes).values(alive_until=None))
