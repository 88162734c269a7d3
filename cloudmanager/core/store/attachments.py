"""Disks that are attached to this machine or to another node, or are about to be."""

from dataclasses import replace

from sqlalchemy import ColumnElement, and_, bindparam, delete, insert, select, update

from cloudmanager.core.clock import Clock
from cloudmanager.core.model import Access, AttachmentState, AttachPlan, Problem
from cloudmanager.core.records import AttachmentRecord
from cloudmanager.core.store import schema, trail
from cloudmanager.core.store.database import Database
from cloudmanager.core.store.rows import attachment_record

_ATTACHMENT = select(schema.attachments).where(
    schema.attachments.c.node == bindparam("on_node"), schema.attachments.c.canonical_id == bindparam("of_disk")
)


class AttachmentTable:
    """Every method is one transaction."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._read = database.read
        self._write = database.write
        self._clock = clock

    def get(self, node: str, canonical_id: str) -> AttachmentRecord | None:
        """The node's attachment of the disk."""
        with self._read() as connection:
            key = {"on_node": node, "of_disk": canonical_id}
            row = connection.execute(_ATTACHMENT, key).mappings().one_or_none()
        return attachment_record(row) if row else None

    def all(self) -> list[AttachmentRecord]:
        table = schema.attachments
        with self._read() as connection:
            rows = connection.execute(select(table).order_by(table.c.node, table.c.canonical_id)).mappings()
            return [attachment_record(row) for row in rows]

    def plan(self, node: str, plan: AttachPlan, state: AttachmentState) -> AttachmentRecord:
        """Commits a plan: from here on, what it describes is ours (unless the disk was attached already)."""
        at = self._clock.now()
        record = AttachmentRecord(node, plan, state, at)
        with self._write() as connection:
            connection.execute(
                insert(schema.attachments).values(
                    node=node, canonical_id=plan.disk.canonical_id, plan=plan, state=state.value, since=at
                )
            )
            trail.about_disk(connection, node, plan.disk, f"attachment.{state}", at, plan.slot)
        return record

    def set_state(
        self, record: AttachmentRecord, state: AttachmentState, problem: Problem | None = None
    ) -> AttachmentRecord:
        at = self._clock.now()
        with self._write() as connection:
            connection.execute(
                update(schema.attachments)
                .where(is_attachment(record))
                .values(state=state.value, since=at, error=problem)
            )
            if state != record.state:
                detail = problem.detail if problem else record.plan.slot
                trail.about_disk(connection, record.node, record.plan.disk, f"attachment.{state}", at, detail)
        return replace(record, state=state, since=at, error=problem)

    def keep_proof(self, record: AttachmentRecord, proof: str) -> AttachmentRecord:
        """Commits what `attach` has kept of its request."""
        return self._keep(record, replace(record.plan, proof=proof))

    def keep_access(self, record: AttachmentRecord, access: Access) -> AttachmentRecord:
        """Commits that the disk is attached with another access than planned, because the cloud refused that one."""
        return self._keep(record, replace(record.plan, access=access))

    def _keep(self, record: AttachmentRecord, plan: AttachPlan) -> AttachmentRecord:
        with self._write() as connection:
            connection.execute(update(schema.attachments).where(is_attachment(record)).values(plan=plan))
        return replace(record, plan=plan)

    def set_idle(self, record: AttachmentRecord, idle_boottime: float | None) -> None:
        """Notes when the last export ended, or with None that there is one again."""
        with self._write() as connection:
            connection.execute(
                update(schema.attachments)
                .where(is_attachment(record))
                .values(boot_id=self._clock.boot_id, idle_boottime=idle_boottime)
            )

    def forget(self, record: AttachmentRecord) -> None:
        with self._write() as connection:
            connection.execute(delete(schema.attachments).where(is_attachment(record)))
            event_name = "attachment.detached" if record.is_ours else "attachment.left"
            trail.about_disk(connection, record.node, record.plan.disk, event_name, self._clock.now(), record.plan.slot)


def is_attachment(record: AttachmentRecord) -> ColumnElement[bool]:
    table = schema.attachments
    return and_(table.c.node == record.node, table.c.canonical_id == record.plan.disk.canonical_id)
