"""The store, on SQLite and on PostgreSQL."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, event, update

from cloudmanager import Access, AttachPlan, Disk, DiskId, Node
from cloudmanager.core.clock import Clock
from cloudmanager.core.errors import (
    AccessConflict,
    ConfigurationError,
    ExportNotFound,
    IdempotencyMismatch,
    NodeDraining,
    ProviderPaused,
    StoreUnavailable,
)
from cloudmanager.core.model import AttachmentState, ExportState, Problem
from cloudmanager.core.records import ExportFilter, ExportRecord, MaintenanceAction, ServerProcess, Start
from cloudmanager.core.store import Store, schema

CLOCK = Clock()
NODE = "here"
RecordMaker = Callable[..., ExportRecord]


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store.open(url, CLOCK)
    yield opened
    opened.close()


@pytest.fixture
def record() -> RecordMaker:
    numbers = itertools.count(1)

    def make(canonical_id: str = "disk", access: Access = Access.READ_ONLY, **changes: object) -> ExportRecord:
        number = next(numbers)
        now = CLOCK.now()
        made = ExportRecord(
            id=f"{number:04}",
            node=NODE,
            disk=Disk(DiskId("local", canonical_id), canonical_id, 2**41, labels={"case": "7"}),
            access=access,
            holder=f"holder-{number}",
            note="",
            state=ExportState.PENDING,
            name=f"name-{number}",
            created_at=now,
            expires_at=now + timedelta(hours=1),
            boot_id=CLOCK.boot_id,
            expires_boottime=CLOCK.boottime() + 3600,
            unready_boottime=CLOCK.boottime(),
        )
        return replace(made, **changes)  # type: ignore[arg-type]

    return make


def test_what_is_claimed_is_what_is_read_back(store: Store, record: RecordMaker) -> None:
    claimed = store.claims.add(record())
    assert store.exports.get(claimed.id) == claimed


def test_the_migrated_schema_is_the_declared_one(store: Store, url: str) -> None:
    engine = create_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    engine.dispose()


def test_a_store_opens_again_and_keeps_what_it_holds(store: Store, url: str, record: RecordMaker) -> None:
    claimed = store.claims.add(record())
    again = Store.open(url, CLOCK)
    assert again.exports.get(claimed.id) == claimed
    again.close()


def test_a_store_of_a_newer_version_is_refused(store: Store, url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(ConfigurationError, match="newer cloudmanager"):
        Store.open(url, CLOCK)


@pytest.mark.parametrize("url", ["mysql://h/x", "nonsense", ""])
def test_a_store_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"store\.url"):
        Store.open(url, CLOCK)


def test_a_store_that_cannot_be_reached_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        Store.open(f"sqlite:///{tmp_path}/none/store.sqlite", CLOCK)
    assert caught.value.retriable


@pytest.mark.parametrize(
    ("standing", "wanted", "excluded"),
    [
        (Access.READ_ONLY, Access.READ_ONLY, False),
        (Access.READ_ONLY, Access.SCRATCH, False),
        (Access.SCRATCH, Access.SCRATCH, False),
        (Access.READ_ONLY, Access.READ_WRITE, True),
        (Access.SCRATCH, Access.READ_WRITE, True),
        (Access.READ_WRITE, Access.READ_ONLY, True),
        (Access.READ_WRITE, Access.SCRATCH, True),
        (Access.READ_WRITE, Access.READ_WRITE, True),
    ],
)
def test_read_write_excludes_every_other_claim_and_names_the_holder(
    store: Store, record: RecordMaker, standing: Access, wanted: Access, excluded: bool
) -> None:
    first = store.claims.add(record(access=standing))
    if not excluded:
        store.claims.add(record(access=wanted))
        return
    with pytest.raises(AccessConflict, match=first.holder) as caught:
        store.claims.add(record(access=wanted))
    assert caught.value.holder == first.holder
    store.claims.add(record("another disk", wanted))


def test_a_claim_covers_the_disks_that_are_read_through(store: Store, record: RecordMaker) -> None:
    overlay = record("overlay")
    overlay = replace(overlay, disk=replace(overlay.disk, backing=("base",)))
    store.claims.add(overlay)
    store.claims.add(record("base"))
    with pytest.raises(AccessConflict):
        store.claims.add(record("base", Access.READ_WRITE))


def test_a_claim_stands_while_closing_and_ends_with_the_export(store: Store, record: RecordMaker) -> None:
    first = store.claims.add(record(access=Access.READ_WRITE))
    assert store.exports.start_closing(first.id, "released")
    with pytest.raises(AccessConflict):
        store.claims.add(record())
    assert store.exports.set_over(first.id, ExportState.CLOSED)
    store.claims.add(record())


def test_of_eight_that_race_for_read_write_one_wins(url: str, store: Store, record: RecordMaker) -> None:
    stores = [Store.open(url, CLOCK) for _ in range(8)]
    for round_number in range(5):
        records = [record(f"raced-{round_number}", Access.READ_WRITE) for _ in stores]

        def claim(pair: tuple[Store, ExportRecord]) -> str | None:
            try:
                return pair[0].claims.add(pair[1]).id
            except AccessConflict as conflict:
                return None if conflict.holder else "nobody"

        with ThreadPoolExecutor(8) as pool:
            winners = [each for each in pool.map(claim, zip(stores, records, strict=True)) if each]
        assert len(winners) == 1
    for each in stores:
        each.close()


def test_an_idempotency_key_gives_the_same_export_also_in_a_race(store: Store, record: RecordMaker) -> None:
    records = [record() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda each: store.claims.add(each, "key", "digest").id, records))
    assert len(ids) == 1
    replayed = store.claims.replayed("key", "digest")
    assert replayed is not None
    assert {replayed.id} == ids
    assert store.claims.replayed("other key", "digest") is None
    with pytest.raises(IdempotencyMismatch):
        store.claims.add(record(), "key", "other digest")


def test_a_late_writer_cannot_undo_a_release(store: Store, record: RecordMaker) -> None:
    claimed = store.claims.add(record())
    assert store.exports.set_attaching([Start(claimed.id, 10900, 0.0)]) == {claimed.id}
    assert store.exports.start_closing(claimed.id, "released")
    server = ServerProcess("boot", 1, 2, 3)
    assert not store.exports.set_ready(claimed.id, server, 5, "raw")
    assert store.exports.set_attaching([Start(claimed.id, 1, 0.0)]) == frozenset()
    assert not store.exports.renew(claimed.id, CLOCK.now(), 0.0)
    assert not store.exports.start_closing(claimed.id, "again")
    assert store.exports.set_over(claimed.id, ExportState.CLOSED)
    assert not store.exports.set_over(claimed.id, ExportState.FAILED)
    assert store.exports.get(claimed.id).state is ExportState.CLOSED


def test_a_server_and_an_error_survive_the_store(store: Store, record: RecordMaker) -> None:
    claimed = store.claims.add(record())
    problem = Problem("throttled", "t", "d", True, "RequestLimitExceeded", 2.5)
    store.exports.set_error(claimed.id, problem, 1.0)
    assert store.exports.get(claimed.id).error == problem
    store.exports.set_attaching([Start(claimed.id, 10900, 1.0)])
    server = ServerProcess("boot", 1, 2, 3)
    store.exports.set_ready(claimed.id, server, 2**42, "qcow2")
    ready = store.exports.get(claimed.id)
    assert (ready.state, ready.server, ready.size_bytes, ready.error) == (ExportState.READY, server, 2**42, None)


def test_exports_are_listed_newest_first_by_page_and_filter(store: Store, record: RecordMaker) -> None:
    ids = [store.claims.add(record(f"disk-{n % 2}")).id for n in range(5)]
    pages, token = [], None
    while True:
        page = store.exports.page(ExportFilter(), token, 2)
        pages.append([each.id for each in page.items])
        if (token := page.next_page) is None:
            break
    assert pages == [ids[4:2:-1], ids[2:0:-1], ids[:1]]
    by_disk = store.exports.page(ExportFilter(disk="local:disk-1"), None, 10)
    assert [each.id for each in by_disk.items] == [ids[3], ids[1]]
    store.exports.start_closing(ids[0], "released")
    closing = store.exports.page(ExportFilter(states=frozenset({ExportState.CLOSING})), None, 10)
    assert [each.id for each in closing.items] == [ids[0]]


def test_an_unknown_export_is_named(store: Store) -> None:
    with pytest.raises(ExportNotFound, match="'nope'"):
        store.exports.get("nope")


def test_pruning_forgets_what_is_over_and_keeps_its_events(store: Store, record: RecordMaker) -> None:
    over, live = store.claims.add(record(), "key", "digest"), store.claims.add(record())
    store.exports.set_over(over.id, ExportState.CLOSED)
    assert store.exports.prune(NODE, 60) == 0
    assert store.exports.prune("another node", 0) == 0
    assert store.exports.prune(NODE, 0) == 1
    assert store.exports.get(live.id)
    with pytest.raises(ExportNotFound):
        store.exports.get(over.id)
    assert store.claims.replayed("key", "digest") is None
    assert [each.event for each in store.trail.events(None, 10, over.id).items] == ["export.closed", "export.claimed"]


class JumpingClock(Clock):
    """The wall clock jumps, time passes, the machine boots."""

    jumped = timedelta()
    passed = 0.0

    def now(self) -> datetime:
        return super().now() + self.jumped + timedelta(seconds=self.passed)

    def boottime(self) -> float:
        return super().boottime() + self.passed


@pytest.fixture
def clock() -> JumpingClock:
    return JumpingClock()


@pytest.fixture
def over(url: str, clock: JumpingClock, record: RecordMaker) -> Iterator[Store]:
    """A store with an export that has just ended, and that a key still names."""
    store = Store.open(url, clock)
    store.exports.set_over(store.claims.add(record(), "key", "digest").id, ExportState.CLOSED)
    yield store
    store.close()


@pytest.mark.parametrize("days", [-400, 400])
def test_a_jump_of_the_wall_clock_changes_nothing_of_how_long_what_is_over_is_kept(
    over: Store, clock: JumpingClock, days: int
) -> None:
    clock.jumped = timedelta(days=days)
    clock.passed = 3500
    assert over.exports.prune(NODE, 3600) == 0
    assert over.claims.replayed("key", "digest") is not None
    clock.passed = 3700
    assert over.exports.prune(NODE, 3600) == 1
    assert over.claims.replayed("key", "digest") is None


@pytest.mark.parametrize(("days_off", "days_kept", "is_forgotten"), [(2, 1, True), (0.5, 1, False)])
def test_after_a_reboot_what_is_over_is_kept_for_the_rest_of_its_time(
    over: Store, clock: JumpingClock, days_off: float, days_kept: float, is_forgotten: bool
) -> None:
    clock.boot_id = "the next one"
    clock.jumped = timedelta(days=days_off)
    assert over.exports.prune(NODE, days_kept * 86400) == int(is_forgotten)
    clock.jumped += timedelta(days=400)  # asked once, the wall clock may jump
    assert over.exports.prune(NODE, days_kept * 86400) == 0


def test_what_was_over_before_the_boot_clock_was_kept_is_forgotten_in_time(over: Store, clock: JumpingClock) -> None:
    with over._database.write() as connection:
        connection.execute(update(schema.exports).values(over_boottime=None))
    assert over.exports.prune(NODE, 3600) == 0
    clock.passed = 3700
    assert over.exports.prune(NODE, 3600) == 1


def test_an_export_of_an_earlier_boot_moves_to_this_boots_clock(store: Store, record: RecordMaker) -> None:
    old = store.claims.add(
        record(boot_id="earlier", expires_boottime=1e9, expires_at=CLOCK.now() + timedelta(minutes=5))
    )
    store.exports.rebase(old, timedelta(minutes=4))
    moved = store.exports.get(old.id)
    assert moved.boot_id == CLOCK.boot_id
    assert moved.expires_boottime == pytest.approx(CLOCK.boottime() + 240, abs=5)
    assert moved.expires_at.timestamp() == pytest.approx(CLOCK.now().timestamp() + 240, abs=5)


def test_an_attachment_lives_from_its_plan_to_its_detach(store: Store) -> None:
    disk = Disk(DiskId("local", "d"), "disk", 1)
    plan = AttachPlan(disk, Node("vm", "zone"), Access.READ_ONLY, "uuid", slot="3")
    planned = store.attachments.plan(NODE, plan, AttachmentState.PLANNED)
    assert store.attachments.get(NODE, "disk") == planned
    assert store.active_disks(NODE) == {"disk"}
    attached = store.attachments.set_state(planned, AttachmentState.ATTACHED)
    store.attachments.set_idle(attached, 12.0)
    kept = store.attachments.get(NODE, "disk")
    assert kept is not None
    assert (kept.state, kept.idle_boottime, kept.boot_id) == (AttachmentState.ATTACHED, 12.0, CLOCK.boot_id)
    assert kept.is_ours
    store.attachments.forget(kept)
    assert store.attachments.all() == []
    events = [each.event for each in store.trail.events(None, 10).items]
    assert events == ["attachment.detached", "attachment.attached", "attachment.planned"]


def test_times_come_back_aware_and_in_utc(store: Store, record: RecordMaker) -> None:
    there = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert store.exports.get(store.claims.add(record(expires_at=there)).id).expires_at == there


@pytest.fixture
def other(url: str) -> Iterator[Store]:
    """The same store, as another service uses it."""
    opened = Store.open(url, CLOCK)
    yield opened
    opened.close()


def pause(store: Store) -> None:
    store.maintenance.pause("local", MaintenanceAction(CLOCK.now(), "nina"), NODE)


def drain(store: Store) -> None:
    store.maintenance.drain(NODE, MaintenanceAction(CLOCK.now(), "nina"))


@pytest.mark.parametrize(("give", "refusal"), [(pause, ProviderPaused), (drain, NodeDraining)])
def test_a_claim_that_meets_an_order_in_its_commit_is_refused_by_it(
    store: Store, other: Store, record: RecordMaker, give: Callable[[Store], None], refusal: type[Exception]
) -> None:
    store.nodes.begin_session(NODE, "a session", "an identity", "a machine", 30)
    committing, go = threading.Event(), threading.Event()

    def hold(_: Connection) -> None:
        committing.set()
        go.wait(20)

    event.listen(store._database._engine, "commit", hold)
    with ThreadPoolExecutor(2) as pool:
        order = pool.submit(give, store)
        assert committing.wait(20)
        claim = pool.submit(other.claims.add, record())
        wait([claim], timeout=0.3)  # for it to come as far as it can
        go.set()
        order.result()
        with pytest.raises(refusal, match="by nina"):
            claim.result()
    assert other.exports.page(ExportFilter(), None, 10).items == ()


@pytest.mark.parametrize("give", [pause, drain])
def test_when_an_order_is_given_every_claim_that_came_through_is_in_the_store(
    store: Store, other: Store, record: RecordMaker, give: Callable[[Store], None]
) -> None:
    store.nodes.begin_session(NODE, "a session", "an identity", "a machine", 30)
    records = [record(f"disk-{number}") for number in range(60)]
    under_way = threading.Event()

    def claim(wanted: ExportRecord) -> bool:
        try:
            other.claims.add(wanted)
        except (ProviderPaused, NodeDraining):
            return False
        finally:
            under_way.set()
        return True

    with ThreadPoolExecutor(6) as pool:
        claims = [pool.submit(claim, wanted) for wanted in records]
        assert under_way.wait(20)
        give(store)
        seen = len(store.exports.claiming(NODE))
        assert sum(each.result() for each in claims) == seen


def test_orders_are_kept_with_who_gave_them(store: Store) -> None:
    store.nodes.begin_session(NODE, "a session", "an identity", "a machine", 30)
    pause(store)
    drain(store)
    store.nodes.begin_session(NODE, "a session", "an identity", "a machine", 30)  # after a restart
    (node,) = store.nodes.all()
    assert node.drain is not None
    assert (node.drain.by, store.maintenance.pauses()["local"].by) == ("nina", "nina")
    for event_name in ("provider.paused", "node.draining"):
        (reported,) = [each for each in store.trail.events(None, 10).items if each.event == event_name]
        assert (reported.ordered_by, reported.node, reported.disk_id) == ("nina", NODE, "")


def test_a_forced_release_is_told_once_and_only_of_what_is_not_over(store: Store, record: RecordMaker) -> None:
    claimed = store.claims.add(record())
    assert store.exports.force_closing(claimed.id, "nina", "Now.")
    assert not store.exports.force_closing(claimed.id, "otto", "Now!")
    forced = store.exports.get(claimed.id)
    assert (forced.state, forced.is_forced) == (ExportState.CLOSING, True)
    store.exports.set_over(claimed.id, ExportState.CLOSED)
    assert not store.exports.force_closing(claimed.id, "otto", "Now!")
    reported = [each.event for each in store.trail.events(None, 10, claimed.id).items]
    assert reported == ["export.closed", "export.force-released", "export.closing", "export.claimed"]


def test_renaming_a_node_again_changes_nothing(store: Store, record: RecordMaker) -> None:
    store.nodes.begin_session(NODE, "a session", "an identity", "a machine", 30)
    export = store.claims.add(record())
    for _ in range(2):
        store.rename_node(NODE, "renamed", "an identity")
    assert store.exports.get(export.id).node == "renamed"
    assert [node.name for node in store.nodes.all()] == ["renamed"]
