"""Rows of every kind for a store that is kept: what earlier versions have written must be read by later ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cloudmanager import Access, AttachPlan, Disk, DiskId, Node
from cloudmanager.core.clock import Clock
from cloudmanager.core.model import AttachmentState, ExportState, Problem
from cloudmanager.core.records import ExportFilter, ExportRecord, MaintenanceAction, ServerProcess, Start
from cloudmanager.core.store import Store

NODE = "worker-1"
BOOT = "5e1ec7ed-0000-4000-8000-000000000001"
NOW = datetime(2026, 3, 14, 15, 9, 26, 535897, tzinfo=UTC)
BOOTTIME = 12345.25
KEY, DIGEST = "a key of the client's", "0" * 64


class StoppedClock(Clock):
    """Always the same moment."""

    def __init__(self) -> None:
        super().__init__()
        self.boot_id = BOOT

    def now(self) -> datetime:
        return NOW

    def boottime(self) -> float:
        return BOOTTIME


def fill(store: Store) -> None:
    """An export in every state and with every access, an attachment in every state, and what there is besides."""
    store.nodes.begin_session(NODE, "a session", "an identity", "a machine", 30)
    _fill_exports(store)
    _fill_attachments(store)
    _give_orders(store)


def _fill_exports(store: Store) -> None:
    problem = Problem("throttled", "The cloud asks for fewer requests", "Later.", True, "RequestLimitExceeded", 2.5)
    states = iter(ExportState)
    for number, (access, state) in enumerate([(each, next(states)) for each in [*Access, *Access]]):
        record = _export(number, access)
        store.claims.add(record, KEY if number == 0 else None, DIGEST)
        if state is not ExportState.PENDING:
            store.exports.set_attaching([Start(record.id, 10900 + number, BOOTTIME)])
            store.exports.set_error(record.id, problem, BOOTTIME)
        if state not in (ExportState.PENDING, ExportState.ATTACHING):
            store.exports.set_ready(record.id, ServerProcess(BOOT, 4000 + number, 5, 6), 2**41, "qcow2")
        if state in (ExportState.CLOSING, ExportState.CLOSED):
            store.exports.start_closing(record.id, "released")
        if state.is_over:
            store.exports.set_over(record.id, state, problem if state is ExportState.FAILED else None)


def _fill_attachments(store: Store) -> None:
    for number, state in enumerate(AttachmentState):
        plan = AttachPlan(_disk(number), Node("vm-1", "zone-a", "instances/1"), Access.READ_ONLY, f"uuid-{number}", "7")
        record = store.attachments.plan(NODE, plan, AttachmentState.PLANNED)
        if state is AttachmentState.ATTACHED:
            record = store.attachments.keep_proof(record, f"attached {NOW.isoformat()}")
        problem = Problem("disk_in_use", "The disk is in use", "Something has it open.") if state == "stuck" else None
        store.attachments.set_state(record, state, problem)
        store.attachments.set_idle(record, BOOTTIME if number % 2 else None)


def _give_orders(store: Store) -> None:
    order = MaintenanceAction(NOW, "carol", "the cellar is flooded")
    closing = store.exports.page(ExportFilter(states=frozenset({ExportState.CLOSING})), None, 1).items[0]
    store.exports.force_closing(closing.id, order.by, order.reason)
    store.maintenance.pause("prod", order, NODE)
    store.maintenance.drain(NODE, order)


def _disk(number: int) -> Disk:
    labels, backing = {"case": "7", "größe": "groß"}, ("cloud:base",)
    created = NOW - timedelta(days=number)
    return Disk(
        DiskId("prod", f"zone-a/disk-{number}"),
        f"cloud:disk-{number}",
        2**41,
        location="zone-a",
        labels=labels,
        held_by=("vm-9",),
        backing=backing,
        created_at=created,
    )


def _export(number: int, access: Access) -> ExportRecord:
    return ExportRecord(
        id=f"019a1b2c3d4e5f607182930{number}",
        node=NODE,
        disk=_disk(number),
        access=access,
        holder="alice ünd bob",
        note="first line\nsecond line, with 'quotes' and a % sign",
        state=ExportState.PENDING,
        name=f"{number:032x}",
        created_at=NOW,
        expires_at=NOW + timedelta(hours=1),
        boot_id=BOOT,
        expires_boottime=BOOTTIME + 3600,
        unready_boottime=BOOTTIME,
    )
