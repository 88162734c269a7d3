"""Claims: who may use a disk, decided when an export is requested.

A claim is committed in one transaction with the export that holds it, and goes with the one that ends it.
"""

from sqlalchemy import Boolean, Connection, bindparam, insert, or_, select

from cloudmanager.core.errors import AccessConflict, IdempotencyMismatch
from cloudmanager.core.incarnation import is_replaced
from cloudmanager.core.records import ExportRecord
from cloudmanager.core.store import schema, trail
from cloudmanager.core.store.database import Database
from cloudmanager.core.store.exports import read_export
from cloudmanager.core.store.maintenance import draining, pausing, refuse_claims
from cloudmanager.core.store.rows import export_record, export_row

_STANDING = (
    select(schema.exports)
    .join(schema.claims, schema.exports.c.id == schema.claims.c.export_id)
    .where(schema.claims.c.canonical_id == bindparam("of_disk"))
    .where(or_(schema.claims.c.is_exclusive, bindparam("is_exclusive", type_=Boolean())))
    .order_by(schema.exports.c.id)
)
_INSERT_EXPORT = insert(schema.exports)
_INSERT_CLAIM = insert(schema.claims)


class ClaimTable:
    """Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._read = database.read
        self._write = database.write

    def add(self, record: ExportRecord, idempotency_key: str | None = None, digest: str = "") -> ExportRecord:
        """Checks for an operator's actions and for conflicts, and writes the claim, in one transaction.

        Returns the earlier export if the key was used for the same request. Raises ProviderPaused, NodeDraining,
        AccessConflict naming the holder, IdempotencyMismatch.
        """
        with self._write() as connection:
            wanted = record.claims
            hindrances = [pausing(record.disk.id.provider), draining(record.node)]
            self._database.lock(connection, hindrances, shared=True)
            self._database.lock(connection, [*wanted, *([idempotency_key] if idempotency_key else [])])
            if idempotency_key and (earlier := _replayed(connection, idempotency_key, digest)):
                return earlier
            refuse_claims(connection, record.disk.id.provider, record.node)
            _refuse_conflict(connection, record, wanted)
            connection.execute(_INSERT_EXPORT, export_row(record))
            connection.execute(
                _INSERT_CLAIM,
                [
                    {"export_id": record.id, "canonical_id": disk, "is_exclusive": exclusive}
                    for disk, exclusive in wanted.items()
                ],
            )
            if idempotency_key:
                connection.execute(
                    insert(schema.idempotency_keys).values(key=idempotency_key, digest=digest, export_id=record.id)
                )
            trail.add(
                connection,
                "export.claimed",
                record.created_at,
                record.access,
                node=record.node,
                disk_id=str(record.disk.id),
                export_id=record.id,
                holder=record.holder,
            )
        return record

    def refuse_conflict(self, record: ExportRecord) -> None:
        """Raises AccessConflict if the claim would be refused now."""
        with self._read() as connection:
            _refuse_conflict(connection, record, record.claims)

    def replayed(self, idempotency_key: str, digest: str) -> ExportRecord | None:
        """The export that the key made before. Raises IdempotencyMismatch."""
        with self._read() as connection:
            return _replayed(connection, idempotency_key, digest)


def _refuse_conflict(connection: Connection, record: ExportRecord, wanted: dict[str, bool]) -> None:
    for disk, is_exclusive in wanted.items():
        key = {"of_disk": disk, "is_exclusive": is_exclusive}
        for row in connection.execute(_STANDING, key).mappings():
            standing = export_record(row)
            if not _is_of_another_disk(standing, record):
                raise _conflict(record, standing)


def _is_of_another_disk(standing: ExportRecord, wanted: ExportRecord) -> bool:
    """It has the claim on a disk that had the wanted one's name before: on one that does not exist any more."""
    is_same_name = standing.disk.canonical_id == wanted.disk.canonical_id
    return is_same_name and is_replaced(standing.disk, wanted.disk.incarnation, wanted.disk.created_at)


def _conflict(wanted: ExportRecord, standing: ExportRecord) -> AccessConflict:
    until = standing.expires_at.isoformat(timespec="seconds")
    return AccessConflict(
        f"{standing.disk.id} is claimed {standing.access} by {standing.holder} (export {standing.id}, until {until}), "
        f"which excludes {wanted.access} access to {wanted.disk.id}. Wait, or ask {standing.holder} to release it.",
        holder=standing.holder,
    )


def _replayed(connection: Connection, key: str, digest: str) -> ExportRecord | None:
    table = schema.idempotency_keys
    row = connection.execute(select(table.c.digest, table.c.export_id).where(table.c.key == key)).one_or_none()
    if row is None:
        return None
    if row.digest != digest:
        raise IdempotencyMismatch("This Idempotency-Key was used for another request. Use a new key for a new request.")
    return read_export(connection, row.export_id)
