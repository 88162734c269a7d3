"""Checks a store: the database file, the schema, and the consistency of our rows."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection
from sqlalchemy.exc import DatabaseError

from cloudmanager.core.clock import Clock
from cloudmanager.core.errors import CloudManagerError, StoreUnavailable
from cloudmanager.core.model import AttachmentState, ExportState, Finding, Severity
from cloudmanager.core.records import AttachmentRecord, Contents, DiskClaim, ExportRecord
from cloudmanager.core.store import schema, sqlite_file
from cloudmanager.core.store.database import Database, migrations
from cloudmanager.core.store.store import Store

SHOWN = 10
"""Of many mistakes of one kind."""
_RESTORE = "Stop the service, and restore a backup with `cloudmanager store restore`."
_DEFECT = "This is a defect: report it, with a copy of the store. An intact backup can be restored."
_STATES_AFTER = {
    "export.claimed": {ExportState.PENDING, ExportState.ATTACHING},
    "export.ready": {ExportState.READY, ExportState.ATTACHING},
    "export.closing": {ExportState.CLOSING},
    "export.closed": {ExportState.CLOSED},
    "export.failed": {ExportState.FAILED},
}


def check(url: str | URL) -> Iterator[Finding]:
    """Every finding, good ones too. Nothing is changed, and a service may be using the store.

    Raises ConfigurationError, MissingExtra.
    """
    database = Database.look(url)
    try:
        yield from _check(database)
    except StoreUnavailable as error:
        yield Finding("store", Severity.PROBLEM, error.detail)
    finally:
        database.close()


def newer_schema(url: str | URL) -> Finding | None:
    """The problem of a store that a newer version has written. None: there is none, or it cannot be looked at now."""
    try:
        database = Database.look(url)
    except CloudManagerError:
        return None
    try:
        path = sqlite_file.path_of(database.url)
        if path is not None and not path.exists():
            return None
        with database.snapshot() as connection:
            return _unknown(MigrationContext.configure(connection).get_current_revision())
    except CloudManagerError:
        return None
    finally:
        database.close()


def _check(database: Database) -> Iterator[Finding]:
    path = sqlite_file.path_of(database.url)
    if path is not None and not path.exists():
        yield Finding("store", Severity.PROBLEM, f"{path} does not exist", "The service makes it when it starts.")
        return
    with database.snapshot() as connection:
        yield _describe_file(database, connection)
        if path is not None:
            yield from _check_file(connection)
        revision = MigrationContext.configure(connection).get_current_revision()
        findings = list(_check_schema(connection, revision))
    yield from findings
    if all(finding.severity is Severity.OK for finding in findings):
        yield from contradictions(Store(database, Clock()).contents())


def _describe_file(database: Database, connection: Connection) -> Finding:
    path = sqlite_file.path_of(database.url)
    if path is not None:
        return Finding("store", Severity.OK, f"{path}, {path.stat().st_size / 1024**2:.1f} MiB")
    version = connection.exec_driver_sql("SHOW server_version").scalar_one()
    return Finding("store", Severity.OK, f"{database.url.render_as_string(hide_password=True)}, version {version}")


def _check_file(connection: Connection) -> Iterator[Finding]:
    # The quick one looks at pages, and still speaks where the other, which reads the rows too, gives up.
    damage = _damage(connection, "quick_check") or _damage(connection, "integrity_check")
    yield from _finding("integrity", "every page and index", damage, _RESTORE)
    rows = connection.exec_driver_sql("PRAGMA foreign_key_check")
    orphans = [f"row {number} of {table} refers to no row of {parent}" for table, number, parent, _ in rows]
    yield from _finding("foreign keys", "every reference", orphans, _RESTORE)


def _damage(connection: Connection, pragma: str) -> list[str]:
    try:
        lines = [
            str(message).splitlines()[-1] for (message,) in connection.exec_driver_sql(f"PRAGMA {pragma}({SHOWN})")
        ]
    except DatabaseError as error:
        return [str(error.orig)]
    return [] if lines == ["ok"] else lines


def _check_schema(connection: Connection, revision: str | None) -> Iterator[Finding]:
    scripts = ScriptDirectory.from_config(migrations())
    head = scripts.get_current_head()
    if revision is None:
        yield Finding("schema", Severity.PROBLEM, "none: this is not a store of cloudmanager", _RESTORE)
    elif unknown := _unknown(revision):
        yield unknown
    elif revision != head:
        advice = f"The service migrates it to {head} when it starts. Make a backup first; the rest is checked then."
        yield Finding("schema", Severity.WARNING, f"{revision}, an earlier version's", advice)
    else:
        context = MigrationContext.configure(connection, opts={"include_name": _is_ours})
        differences = compare_metadata(context, schema.metadata)
        yield from _finding("schema", f"{revision}, this version's", [str(each) for each in differences], _RESTORE)


def _unknown(revision: str | None) -> Finding | None:
    known = {script.revision for script in ScriptDirectory.from_config(migrations()).walk_revisions()}
    if revision is None or revision in known:
        return None
    advice = "A newer cloudmanager wrote it: use that version, or restore a backup of this one."
    return Finding("schema", Severity.PROBLEM, f"{revision}, which this version does not know", advice)


def _is_ours(name: str | None, kind: str, _parents: object) -> bool:
    """A database server's database may have tables of others, too."""
    return kind != "table" or name in schema.metadata.tables


def contradictions(contents: Contents) -> Iterator[Finding]:
    """Checks the invariants that every transaction preserves."""
    claims: dict[str, list[DiskClaim]] = defaultdict(list)
    for claim in contents.claims:
        claims[claim.export_id].append(claim)
    exports = [mistake for record in contents.exports for mistake in _export_mistakes(record)]
    ports = _shared_ports(contents.exports)
    claimed = [mistake for record in contents.exports for mistake in _claim_mistakes(record, claims[record.id])]
    owned = [mistake for record in contents.attachments for mistake in _attachment_mistakes(record)]
    mistakes = [mistake for record in contents.exports for mistake in _trail_mistakes(record, contents.last_events)]
    live = sum(not record.state.is_over for record in contents.exports)
    seen = f"{len(contents.exports)}, of which {live} are not over"
    yield from _finding("exports", seen, [*contents.misfiled, *exports, *ports], _DEFECT)
    yield from _finding("claims", str(len(contents.claims)), [*claimed, *_broken_into(contents.claims)], _DEFECT)
    yield from _finding("attachments", str(len(contents.attachments)), owned, _DEFECT)
    yield from _finding("audit trail", "has the last state of every export", mistakes, _DEFECT)


def _export_mistakes(record: ExportRecord) -> Iterator[str]:
    if record.state is ExportState.READY and None in (record.server, record.port, record.size_bytes, record.format):
        yield f"export {record.id} is ready without a server"
    if record.state is ExportState.CLOSING and record.closing_boottime is None:
        yield f"export {record.id} has been closing without a known start"
    if record.state.is_over and record.server is not None:
        yield f"export {record.id} is {record.state} and has a server"


def _shared_ports(exports: Sequence[ExportRecord]) -> Iterator[str]:
    users: dict[tuple[str, int], str] = {}
    for record in exports:
        if record.state.is_over or record.port is None:
            continue
        other = users.setdefault((record.node, record.port), record.id)
        if other != record.id:
            yield f"exports {other} and {record.id} are both on port {record.port}"


def _claim_mistakes(record: ExportRecord, claims: Sequence[DiskClaim]) -> Iterator[str]:
    expected = {} if record.state.is_over else record.claims
    found = {claim.canonical_id: claim.is_exclusive for claim in claims}
    if found != expected:
        yield f"export {record.id} is {record.state} and claims {_shown(found)}; it should claim {_shown(expected)}"


def _shown(claims: dict[str, bool]) -> str:
    return ", ".join(f"{disk}{' alone' if alone else ''}" for disk, alone in sorted(claims.items())) or "nothing"


def _broken_into(claims: Sequence[DiskClaim]) -> Iterator[str]:
    by_disk: dict[str, list[DiskClaim]] = defaultdict(list)
    for claim in claims:
        by_disk[claim.canonical_id].append(claim)
    for disk, standing in by_disk.items():
        if len(standing) > 1 and any(claim.is_exclusive for claim in standing):
            holders = ", ".join(claim.export_id for claim in standing)
            yield f"{disk} is claimed by {holders}, and one of them excludes the others"


def _attachment_mistakes(record: AttachmentRecord) -> Iterator[str]:
    if record.plan.is_present and record.state is not AttachmentState.FOREIGN:
        yield f"{record.plan.disk.id} was attached before it was planned, and is {record.state} instead of foreign"


def _trail_mistakes(record: ExportRecord, last_events: Mapping[str, str]) -> Iterator[str]:
    event = last_events.get(record.id)
    if event is None or record.state not in _STATES_AFTER[event]:
        yield f"export {record.id} is {record.state}, and the last that happened to it is {event or 'nothing'}"


def _finding(subject: str, seen: str, mistakes: Sequence[str], advice: str) -> Iterator[Finding]:
    """One that all is well, or one for each mistake, if they are not too many."""
    if not mistakes:
        yield Finding(subject, Severity.OK, seen)
    for mistake in mistakes[:SHOWN]:
        yield Finding(subject, Severity.PROBLEM, mistake, advice)
    if len(mistakes) > SHOWN:
        yield Finding(subject, Severity.PROBLEM, f"{len(mistakes) - SHOWN} more of this kind", advice)
