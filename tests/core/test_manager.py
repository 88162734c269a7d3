"""The manager, on real qemu-nbd, with a provider whose disks must be attached."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import groupby
from pathlib import Path

import pytest

from cloudmanager import Access, ExportRequest, Query, hookimpl
from cloudmanager.core.errors import (
    AccessConflict,
    AccessDenied,
    CloudUnavailable,
    ConfigurationError,
    DiskNotFound,
    ExportNotFound,
    ExportOver,
    InvalidRequest,
    NameClash,
    Refused,
    UnsupportedAccess,
)
from cloudmanager.core.model import AttachmentState, Export, ExportState
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.records import ExportFilter
from cloudmanager.core.wiring import open_manager
from tests.core.bench import SIZE, Bench, content, opened_bench
from tests.waiting import BOUND, eventually


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with opened_bench(tmp_path) as bench:
        yield bench


def test_a_disk_becomes_an_address_and_goes_again(bench: Bench) -> None:
    export = bench.ready()
    assert content(export) == (bench.shelf.directory / "a.img").read_bytes()
    assert (export.size_bytes, export.format, export.node) == (SIZE, "raw", "here")
    over = bench.end(export)
    assert (over.state, over.uri, over.credentials) == (ExportState.CLOSED, None, None)
    eventually(lambda: not bench.shelf.attached)
    eventually(lambda: not bench.manager.attachments())
    hooks = [hook for hook, _ in groupby(call.split()[0] for call in bench.shelf.calls)]
    assert hooks == ["describe", "plan_attach", "attach", "locate", "detach"]


def test_the_whole_way_on_postgresql_a_restart_included(tmp_path: Path, postgres_url: str) -> None:
    with opened_bench(tmp_path, f"{postgres_url}/postgres") as bench:
        export = bench.ready()
        bench.restart()
        assert bench.manager.get(export.id).uri == export.uri
        assert content(export)
        bench.end(export)
        eventually(lambda: not bench.shelf.attached)


def test_three_holders_share_one_attachment_that_ends_with_the_last(bench: Bench) -> None:
    exports = [bench.ready(holder=name) for name in ("a", "b", "c")]
    assert len({export.uri for export in exports}) == 3
    for export in exports[:2]:
        bench.end(export)
    assert bench.shelf.attached == {"shelf:a.img"}
    assert content(exports[2])
    bench.manager.release(exports[2].id)
    eventually(lambda: not bench.shelf.attached)
    assert bench.shelf.calls.count("attach shelf:a.img") == 1


def test_two_names_and_two_providers_of_one_disk_are_one_disk(bench: Bench) -> None:
    bench.ready("one:a.img")
    with pytest.raises(AccessConflict, match="alice"):
        bench.manager.export("two:A.IMG", Access.READ_WRITE, "bob")
    bench.ready("two:A.img")
    assert bench.shelf.calls.count("attach shelf:a.img") == 1


def test_of_eight_threads_that_race_for_read_write_one_wins(bench: Bench) -> None:
    def claim(number: int) -> str | None:
        try:
            return bench.manager.export("writable:a.img", Access.READ_WRITE, f"holder-{number}").id
        except AccessConflict as conflict:
            return None if conflict.holder else "nobody"

    with ThreadPoolExecutor(8) as pool:
        winners = [each for each in pool.map(claim, range(8)) if each]
    assert len(winners) == 1
    assert bench.manager.wait(winners[0], BOUND).state is ExportState.READY


def test_an_unknown_disk_is_answered_at_once_and_claims_nothing(bench: Bench) -> None:
    with pytest.raises(DiskNotFound):
        bench.manager.export("one:none.img", Access.READ_ONLY, "alice")
    assert bench.manager.list(ExportFilter()).items == ()


@pytest.mark.parametrize("seconds", [0, -1, 0.5, 86401, 10**12])
def test_a_life_out_of_bounds_is_refused(bench: Bench, seconds: float) -> None:
    with pytest.raises(InvalidRequest, match="from 1 to 86400"):
        bench.manager.export("one:a.img", Access.READ_ONLY, "alice", ttl=timedelta(seconds=seconds))


@pytest.mark.parametrize("holder", ["", "  ", "x" * 257, "a\nb", "a\0", "\ud800"])
def test_a_holder_must_be_a_name(bench: Bench, holder: str) -> None:
    with pytest.raises(InvalidRequest, match="holder"):
        bench.manager.export("one:a.img", Access.READ_ONLY, holder)


def test_an_export_that_is_not_renewed_closes_by_itself(bench: Bench) -> None:
    export = bench.ready()
    renewed = bench.manager.renew(export.id, timedelta(hours=2))
    bench.clock.ahead = 5400
    bench.restart()
    assert renewed.expires_at > export.expires_at
    assert bench.manager.get(export.id).state is ExportState.READY
    bench.clock.ahead = 7300
    assert bench.over(export).state is ExportState.CLOSED
    with pytest.raises(ExportOver, match="Ask for a new one"):
        bench.manager.renew(export.id)
    events = [event.event for event in bench.manager.audit(export_id=export.id).items]
    assert events == ["export.closed", "export.closing", "export.renewed", "export.ready", "export.claimed"]


def test_releasing_twice_is_releasing_once(bench: Bench) -> None:
    export = bench.ready()
    bench.end(export)
    assert bench.manager.release(export.id).state is ExportState.CLOSED
    with pytest.raises(ExportNotFound):
        bench.manager.release("nope")


def test_an_idempotency_key_gives_the_same_export(bench: Bench) -> None:
    first = bench.manager.export("one:a.img", Access.READ_ONLY, "alice", idempotency_key="k")
    assert bench.manager.export("one:a.img", Access.READ_ONLY, "alice", idempotency_key="k").id == first.id
    assert bench.manager.export("one:a.img", Access.READ_ONLY, "alice", idempotency_key="l").id != first.id


def test_a_retriable_error_is_shown_and_retried_until_it_passes(bench: Bench) -> None:
    bench.shelf.failures["attach"] = [CloudUnavailable("Not now.", cloud_code="ZONE_RESOURCE_POOL_EXHAUSTED")] * 2
    export = bench.manager.export("one:a.img", Access.READ_ONLY, "alice")
    seen = eventually(lambda: bench.manager.get(export.id).error)
    assert (seen.code, seen.cloud_code, seen.retriable) == (
        "cloud_unavailable",
        "ZONE_RESOURCE_POOL_EXHAUSTED",
        True,
    )
    ready = bench.manager.wait(export.id, BOUND)
    assert (ready.state, ready.error) == (ExportState.READY, None)


def test_a_final_error_fails_the_export_and_frees_its_claim(bench: Bench) -> None:
    bench.shelf.failures["attach"] = [AccessDenied("No.", cloud_code="UnauthorizedOperation")]
    export = bench.manager.wait(bench.manager.export("writable:a.img", Access.READ_WRITE, "alice").id, BOUND)
    assert export.state is ExportState.FAILED
    assert export.error is not None
    assert export.error.cloud_code == "UnauthorizedOperation"
    bench.ready("writable:a.img", Access.READ_WRITE, "bob")


def test_retrying_ends_at_the_deadline_with_the_last_error(tmp_path: Path) -> None:
    with opened_bench(tmp_path, attach_deadline_seconds=1) as bench:
        bench.shelf.failures["locate"] = [CloudUnavailable("Never.")] * 50
        export = bench.manager.wait(bench.manager.export("one:a.img", Access.READ_ONLY, "alice").id, BOUND)
        assert export.state is ExportState.FAILED
        assert export.error is not None
        assert export.error.detail == "Never."
        eventually(lambda: not bench.shelf.attached)


def test_a_name_that_is_taken_leads_to_another_plan(bench: Bench) -> None:
    bench.shelf.failures["attach"] = [NameClash("taken")]
    bench.ready()
    assert bench.shelf.calls.count("plan_attach shelf:a.img") == 2


def test_what_somebody_else_attached_is_exported_and_never_detached(bench: Bench) -> None:
    bench.shelf.foreign.add("shelf:a.img")
    export = bench.ready()
    assert [each.state for each in bench.manager.attachments()] == [AttachmentState.FOREIGN]
    bench.end(export)
    eventually(lambda: not bench.manager.attachments())
    assert not any(call.startswith(("attach", "detach")) for call in bench.shelf.calls)


def test_what_somebody_attached_between_plan_and_attach_is_foreign_too(bench: Bench) -> None:
    bench.shelf.attached_by_others.add("shelf:a.img")
    export = bench.ready()
    assert [each.state for each in bench.manager.attachments()] == [AttachmentState.FOREIGN]
    bench.end(export)
    eventually(lambda: not bench.manager.attachments())
    assert "detach shelf:a.img" not in bench.shelf.calls


def test_a_detach_that_fails_is_visible_and_tried_again(bench: Bench) -> None:
    bench.shelf.failures["detach"] = [CloudUnavailable("Busy.")]
    bench.manager.release(bench.ready().id)
    stuck = eventually(lambda: [a for a in bench.manager.attachments() if a.state is AttachmentState.STUCK])
    assert stuck[0].error is not None
    assert stuck[0].error.detail == "Busy."
    eventually(lambda: not bench.shelf.attached)


def test_a_disk_lingers_for_the_next_holder(tmp_path: Path) -> None:
    with opened_bench(tmp_path, linger_seconds=60) as bench:
        first = bench.ready()
        bench.end(first)
        bench.restart()
        second = bench.ready()
        bench.end(second)
        assert bench.shelf.attached
        assert bench.shelf.calls.count("attach shelf:a.img") == 1
        bench.clock.ahead = 61
        eventually(lambda: not bench.shelf.attached)


def test_a_lingering_read_only_attachment_is_made_anew_for_a_writer(tmp_path: Path) -> None:
    with opened_bench(tmp_path, linger_seconds=60) as bench:
        first = bench.ready()
        bench.end(first)
        second = bench.ready(access=Access.READ_WRITE)
        assert [each.plan.access for each in bench.manager.attachments()] == [Access.READ_WRITE]
        bench.end(second)
        bench.clock.ahead = 61
        eventually(lambda: not bench.shelf.attached)


def test_a_restart_adopts_what_is_being_served(bench: Bench) -> None:
    export = bench.ready()
    pid = bench.server_pid(export)
    bench.restart()
    adopted = bench.manager.get(export.id)
    assert (adopted.state, adopted.uri) == (ExportState.READY, export.uri)
    assert content(adopted)
    assert bench.server_pid(adopted) == pid


def test_a_request_that_was_interrupted_is_fulfilled_after_the_restart(bench: Bench) -> None:
    bench.shelf.gate.clear()
    export = bench.manager.export("one:a.img", Access.READ_ONLY, "alice")
    eventually(lambda: [a for a in bench.manager.attachments() if a.state is AttachmentState.ATTACHING])
    bench.manager.close(timeout=0.1)
    bench.shelf.gate.set()
    bench.open()
    assert bench.manager.wait(export.id, BOUND).state is ExportState.READY


def test_a_release_while_attaching_takes_the_disk_back(bench: Bench) -> None:
    bench.shelf.gate.clear()
    export = bench.manager.export("one:a.img", Access.READ_ONLY, "alice")
    eventually(lambda: [a for a in bench.manager.attachments() if a.state is AttachmentState.ATTACHING])
    assert bench.manager.release(export.id).state is ExportState.CLOSING
    bench.shelf.gate.set()
    assert bench.over(export).state is ExportState.CLOSED
    eventually(lambda: not bench.shelf.attached)
    eventually(lambda: not bench.manager.attachments())


def test_a_disk_that_was_detached_by_hand_is_attached_again_when_its_server_is_replaced(bench: Bench) -> None:
    export = bench.ready()
    bench.shelf.attached.clear()
    pid = bench.server_pid(export)
    bench.kill_server(export)
    eventually(lambda: bench.shelf.attached)
    again = eventually(lambda: replaced(bench, export, pid))
    assert content(again)


def replaced(bench: Bench, export: Export, pid: int) -> Export | None:
    """The export once another process than `pid` serves it."""
    now = bench.manager.get(export.id)
    return now if now.state is ExportState.READY and bench.server_pid(export) != pid else None


def test_a_server_that_dies_is_replaced_on_the_same_address(bench: Bench) -> None:
    export = bench.ready()
    pid = bench.server_pid(export)
    bench.kill_server(export)
    again = eventually(lambda: replaced(bench, export, pid))
    assert again.uri == export.uri
    assert content(again)


def test_an_image_deleted_while_exported_is_served_on_and_missed_when_its_server_dies(bench: Bench) -> None:
    export = bench.ready()
    (bench.shelf.directory / "a.img").unlink()
    assert len(content(export)) == SIZE
    bench.shelf.failures["locate"] = [DiskNotFound("one:a.img was deleted.")]
    bench.kill_server(export)
    failed = bench.over(export)
    assert failed.error is not None
    assert (failed.state, failed.error.code) == (ExportState.FAILED, "disk_not_found")


def test_after_a_reboot_exports_come_back_on_their_address_and_scratch_ones_fail(bench: Bench) -> None:
    export, scratch = bench.ready(), bench.ready("one:b.img", Access.SCRATCH)
    bench.manager.close()
    for each in (export, scratch):
        bench.end_process(each)
    bench.clock.boot_id = "another boot"
    bench.open()
    failed = bench.manager.get(scratch.id)
    assert failed.state is ExportState.FAILED
    assert failed.error is not None
    assert "restarted" in failed.error.detail
    again = eventually(lambda: now if (now := bench.manager.get(export.id)).state is ExportState.READY else None)
    assert again.uri == export.uri
    assert content(again)


def test_what_is_left_of_forgotten_exports_is_deleted_at_the_start(bench: Bench) -> None:
    export = bench.ready(access=Access.SCRATCH)
    exports = bench.settings.server.state_dir / "exports"
    bench.manager.close()
    (exports / "forgotten").mkdir()
    (exports / "forgotten" / "scratch.qcow2").write_bytes(b"x")
    bench.open()
    assert [path.name for path in exports.iterdir()] == [export.id]
    assert content(export)


def test_two_services_on_one_state_directory_are_refused(bench: Bench) -> None:
    with pytest.raises(ConfigurationError, match="another cloudmanager runs"):
        open_manager(bench.settings, Plugins([]), bench.clock)


def test_a_policy_is_asked_before_any_claim(tmp_path: Path) -> None:
    class NoSecondUse:
        @hookimpl
        def authorize(self, request: ExportRequest) -> None:
            if request.is_attached:
                raise Refused(f"{request.disk.id} is in use already.")

    with opened_bench(tmp_path) as bench:
        bench.manager.close()
        bench.others.append(("policy", NoSecondUse()))
        bench.open()
        bench.ready()
        with pytest.raises(Refused):
            bench.manager.export("one:a.img", Access.READ_ONLY, "bob")
        assert len(bench.manager.list(ExportFilter()).items) == 1


def test_disks_of_all_providers_are_listed_page_by_page(bench: Bench) -> None:
    found, token = [], None
    while True:
        page = bench.manager.disks(None, Query(), token)
        found += [str(disk.id) for disk in page.items]
        if (token := page.next_page) is None:
            break
    assert found == [f"{provider}:{name}.img" for provider in ("one", "two", "writable") for name in "abc"]
    with pytest.raises(InvalidRequest, match="page token"):
        bench.manager.disks(None, Query(), "nonsense")


def test_a_limit_gives_the_pages_of_providers_in_parts(bench: Bench) -> None:
    whole = _listed(bench, None)
    assert len(whole) == 9
    assert _listed(bench, 1) == _listed(bench, 2) == whole
    assert _listed(bench, 1000) == whole
    for token in ("one+x:", "one+-1:", "three+1:"):
        with pytest.raises(InvalidRequest):
            bench.manager.disks(None, Query(), token, 1)


def _listed(bench: Bench, limit: int | None) -> list[str]:
    found: list[str] = []
    token = None
    while True:
        page = bench.manager.disks(None, Query(), token, limit)
        assert limit is None or len(page.items) <= limit
        found += [str(disk.id) for disk in page.items]
        token = page.next_page
        if token is None:
            return found


def test_who_waits_for_an_export_that_is_over_is_answered_at_once(bench: Bench) -> None:
    export = bench.ready()
    bench.end(export)
    assert bench.manager.follow(export.id).result(0).state is ExportState.CLOSED


def test_an_access_the_disk_cannot_give_is_refused_with_what_it_can(bench: Bench) -> None:
    bench.shelf.access = frozenset({Access.READ_ONLY})
    with pytest.raises(UnsupportedAccess, match="possible: read-only"):
        bench.manager.export("one:a.img", Access.READ_WRITE, "alice")


def test_a_machine_that_was_renamed_keeps_its_exports_and_attachments(bench: Bench) -> None:
    export, scratch = bench.ready(), bench.ready("one:b.img", Access.SCRATCH)
    pids = [bench.server_pid(each) for each in (export, scratch)]
    bench.manager.close()
    bench.settings = bench.settings.model_copy(update={"server": bench.settings.server.model_copy(update=RENAMED)})
    bench.open()
    for each, pid in zip((export, scratch), pids, strict=True):
        now = bench.manager.get(each.id)
        assert (now.state, now.uri, now.node, bench.server_pid(now)) == (ExportState.READY, each.uri, "renamed", pid)
    assert [node.name for node in bench.manager.nodes()] == ["renamed"]
    bench.end(export)
    bench.end(scratch)
    eventually(lambda: not bench.shelf.attached)


def test_a_machine_cannot_be_renamed_to_another_node(bench: Bench) -> None:
    bench.manager._store.nodes.begin_session("renamed", "a session", "an identity", "a machine", 30)
    bench.manager.close()
    before = bench.settings
    bench.settings = before.model_copy(update={"server": before.server.model_copy(update=RENAMED)})
    with pytest.raises(ConfigurationError, match="was called here"):
        bench.open()
    bench.manager.close()
    bench.settings = before
    bench.open()


RENAMED = {"node": "renamed"}


def test_disks_are_looked_at_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once, whoever asks for something meanwhile would wait for all of them."""
    looked_at: dict[str, float] = {}
    with opened_bench(tmp_path, reconcile_seconds=0.6) as bench:
        for name in ("a.img", "b.img", "c.img"):
            bench.ready(f"one:{name}")
        all_were = threading.Event()
        converge = bench.manager._reconciler.converge

        def noting(canonical_id: str) -> float | None:
            looked_at.setdefault(canonical_id, time.monotonic())
            if len(looked_at) == 3:
                all_were.set()
            return converge(canonical_id)

        store = bench.manager._store
        monkeypatch.setattr(store, "disks_with_work", lambda *_: store.active_disks("here"))  # as if all wanted work
        monkeypatch.setattr(bench.manager._reconciler, "converge", noting)
        assert all_were.wait(BOUND)
    moments = sorted(looked_at.values())
    assert moments[2] - moments[0] > 0.15
