"""A name that is given again is another disk: nobody who claimed the first one reads or writes the second."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cloudmanager import Access
from cloudmanager.core.errors import DiskReplaced, Throttled
from cloudmanager.core.incarnation import is_replaced, refuse_replaced
from cloudmanager.core.model import Disk, DiskId, Export, ExportState
from tests.core.bench import SIZE, Bench, content, opened_bench, processes_of
from tests.core.nbd.client import Client
from tests.waiting import eventually

NEW = b"another disk".ljust(16) * (SIZE // 16)
ACCESSES = pytest.mark.parametrize("access", list(Access))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with opened_bench(tmp_path) as bench:
        bench.shelf.incarnations["a.img"] = "1"
        yield bench


@pytest.fixture
def blind(tmp_path: Path) -> Iterator[Bench]:
    """Nothing is looked at of itself."""
    with opened_bench(tmp_path, reconcile_seconds=3600, linger_seconds=3600) as bench:
        bench.shelf.incarnations["a.img"] = "1"
        yield bench


def assert_replaced(bench: Bench, export: Export) -> None:
    failed = bench.over(export)
    assert failed.error is not None
    assert (failed.state, failed.error.code, failed.error.retriable) == (ExportState.FAILED, "disk_replaced", False)
    assert processes_of(export.name) == []


def mutations(bench: Bench) -> list[str]:
    return [call for call in bench.shelf.calls if call.split()[0] in ("attach", "detach")]


def is_written(bench: Bench) -> bool:
    return (bench.shelf.directory / "a.img").read_bytes() != NEW


@ACCESSES
def test_an_export_ends_when_another_disk_has_the_name(bench: Bench, access: Access) -> None:
    export = bench.ready("writable:a.img", access)
    with Client.greeted(export.port or 0, export.name) as client:
        bench.shelf.replace("a.img", NEW)
        assert client.is_cut()
    assert_replaced(bench, export)
    again = bench.ready("writable:a.img", access)
    assert content(again) == NEW
    assert not is_written(bench)


def test_every_export_of_the_disk_ends(bench: Bench) -> None:
    exports = [bench.ready(holder=name) for name in ("a", "b", "c")]
    bench.shelf.replace("a.img", NEW)
    for export in exports:
        assert_replaced(bench, export)


@ACCESSES
def test_a_replacement_while_no_service_runs_is_found_by_the_next_one(bench: Bench, access: Access) -> None:
    export = bench.ready("writable:a.img", access)
    bench.manager.close()
    bench.shelf.replace("a.img", NEW)
    bench.open()
    assert_replaced(bench, export)
    assert not is_written(bench)


@ACCESSES
def test_a_server_that_died_meanwhile_is_not_started_on_the_other_disk(bench: Bench, access: Access) -> None:
    export = bench.ready("writable:a.img", access)
    bench.manager.close()
    bench.end_process(export)
    bench.shelf.replace("a.img", NEW)
    bench.open()
    assert_replaced(bench, export)


@ACCESSES
def test_a_server_that_dies_is_not_replaced_by_one_on_the_other_disk(blind: Bench, access: Access) -> None:
    export = blind.ready("writable:a.img", access)
    blind.shelf.replace("a.img", NEW)
    blind.kill_server(export)
    assert_replaced(blind, export)
    assert not is_written(blind)


def test_a_disk_that_was_detached_and_replaced_is_not_attached_again(bench: Bench) -> None:
    export = bench.ready()
    before = mutations(bench)
    bench.shelf.attached.clear()
    bench.shelf.replace("a.img", NEW)
    assert_replaced(bench, export)
    assert mutations(bench) == before
    eventually(lambda: not bench.manager.attachments())


def test_a_lingering_attachment_serves_nobody_who_asks_for_the_new_disk_and_is_not_detached(blind: Bench) -> None:
    blind.end(blind.ready())
    blind.shelf.replace("a.img", NEW)
    blind.shelf.calls.clear()
    assert content(blind.ready()) == NEW
    assert [call.split()[0] for call in mutations(blind)] == ["attach"]
    (attachment,) = blind.manager.attachments()
    assert attachment.plan.disk.incarnation == "2"


def test_a_lingering_attachment_of_a_disk_that_was_replaced_is_forgotten_and_not_detached(blind: Bench) -> None:
    export = blind.ready()
    blind.end(export)
    blind.shelf.replace("a.img", NEW)
    blind.shelf.calls.clear()
    blind.clock.ahead = 3601
    blind.manager._reconciler.poke(export.disk.canonical_id)
    eventually(lambda: not blind.manager.attachments())
    assert mutations(blind) == []


def test_a_disk_that_is_replaced_between_plan_and_attach_is_not_attached(bench: Bench) -> None:
    bench.shelf.failures["attach"] = [Throttled("Later.")] * 2
    export = bench.manager.export("one:a.img", Access.READ_ONLY, "alice")
    eventually(lambda: bench.manager.get(export.id).error)
    bench.shelf.replace("a.img", NEW)
    tried = len(mutations(bench))
    assert_replaced(bench, export)
    assert "shelf:a.img" not in bench.shelf.attached
    assert len(mutations(bench)) <= tried + 1  # one may have been under way
    eventually(lambda: not bench.manager.attachments())


@ACCESSES
def test_the_new_disk_is_exported_at_once_and_the_old_export_ends_by_that(blind: Bench, access: Access) -> None:
    old = blind.ready("writable:a.img", Access.READ_WRITE)
    with Client.greeted(old.port or 0, old.name) as client:
        blind.shelf.replace("a.img", NEW)
        new = blind.ready("writable:a.img", access, holder="bob")
        assert client.is_cut()
    assert content(new) == NEW
    assert_replaced(blind, old)


def test_a_claim_of_the_same_disk_is_still_a_conflict(bench: Bench) -> None:
    bench.ready("writable:a.img", Access.READ_WRITE)
    with pytest.raises(Exception, match="is claimed"):
        bench.manager.export("writable:a.img", Access.READ_ONLY, "bob")


CREATED = datetime(2026, 3, 1, 12, tzinfo=UTC)
CLAIMED = Disk(DiskId("one", "a"), "shelf:a", 1, created_at=CREATED, incarnation="1")


@pytest.mark.parametrize(
    ("claimed", "incarnation", "created_at", "expected"),
    [
        (CLAIMED, "1", CREATED, False),
        (CLAIMED, "2", CREATED, True),
        (CLAIMED, "", CREATED, False),
        (CLAIMED, "", None, False),
        (replace(CLAIMED, incarnation=""), "2", CREATED, False),
        (replace(CLAIMED, incarnation=""), "2", CREATED + timedelta(seconds=1), True),
        (replace(CLAIMED, incarnation="", created_at=None), "2", CREATED, False),
    ],
    ids=["same", "other", "untold", "unknown", "older-store", "older-store-other", "older-store-unknown"],
)
def test_what_tells_another_disk(claimed: Disk, incarnation: str, created_at: datetime | None, expected: bool) -> None:
    assert is_replaced(claimed, incarnation, created_at) is expected


def test_the_error_names_both() -> None:
    refuse_replaced(CLAIMED, "1")
    with pytest.raises(DiskReplaced, match=r"\(1\).*\(2\)"):
        refuse_replaced(CLAIMED, "2")
