"""What must be true of a service that has converged, whatever happened to it. Each check yields what is wrong."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from subprocess import CalledProcessError, run
from tempfile import NamedTemporaryFile

from cloudmanager.core.manager import Manager
from cloudmanager.core.model import Credentials, Export, ExportState, Severity
from cloudmanager.core.nbd import process
from cloudmanager.core.records import AuditEvent, ExportFilter
from cloudmanager.core.store.check import check
from tests.core.nbd.client import Client
from tests.faults.clouds import MiB

_EXPORT_STORY = {
    "": {"claimed"},
    "claimed": {"ready", "closing", "failed"},
    "ready": {"ready", "closing", "failed"},
    "closing": {"closed", "failed"},
    "closed": set(),
    "failed": set(),
}
"""Which event may follow which."""
_NO_CHANGE = ("renewed", "rebased", "force-released")
"""Events of an export that leave its state as it is."""
_REBASED = "after a reboot"
"""The time that is left is what counts then, not the moment that was promised."""
_EXPORT_STATES = {
    "claimed": {ExportState.PENDING, ExportState.ATTACHING},
    "ready": {ExportState.READY, ExportState.ATTACHING},
    "closing": {ExportState.CLOSING},
    "closed": {ExportState.CLOSED},
    "failed": {ExportState.FAILED},
}
_ATTACHMENT_STORY = {
    "": {"planned", "foreign"},
    "planned": {"attaching", "detached"},
    "attaching": {"attached", "foreign", "detaching", "detached"},
    "attached": {"attaching", "detaching", "detached"},
    "foreign": {"left"},
    "detaching": {"attaching", "stuck", "detached"},
    "stuck": {"attaching", "detaching", "detached"},
    "detached": {"planned", "foreign"},
    "left": {"planned", "foreign"},
}


def served_wrongly(export: Export, path: Path) -> Iterator[str]:
    """A handshake, and the first and the last MiB; with a key, all of it."""
    assert export.port is not None
    try:
        if export.credentials is not None:
            copied = _copied(export, export.credentials)
            if copied != path.read_bytes():
                yield f"{export.id} serves other bytes"
            return
        with Client.greeted(export.port, export.name) as client, path.open("rb") as disk:
            for offset in (0, client.size - MiB):
                disk.seek(offset)
                if client.read(offset, MiB) != disk.read(MiB):
                    yield f"{export.id} serves other bytes at {offset}"
    except (OSError, CalledProcessError) as error:
        yield f"{export.id} is ready, but {error!r}"


def _copied(export: Export, credentials: Credentials) -> bytes:
    with NamedTemporaryFile("w") as keys:
        keys.write(f"{credentials.username}:{credentials.key}\n")
        keys.flush()
        uri = f"nbds://{credentials.username}@127.0.0.1:{export.port}/{export.name}?tls-psk-file={keys.name}"
        return run(["nbdcopy", uri, "-"], check=True, capture_output=True, timeout=30).stdout


def wrongly_attached(manager: Manager, attached: Mapping[str, bool], by_hand: Collection[str] = ()) -> Iterator[str]:
    """What is attached is somebody's: an export's, or whoever attached it by hand.

    `attached`: native id of what this machine has → whether it was attached by hand.
    """
    used = {export.disk.id.native for export in exports(manager) if not export.state.is_over}
    recorded = {record.plan.disk.id.native: record for record in manager.attachments()}
    for name, is_by_hand in attached.items():
        if not is_by_hand and name not in used:
            yield f"{name} is attached for nobody"
    for name in by_hand:
        if not attached.get(name):
            yield f"{name} was attached by hand and is {'ours' if name in attached else 'gone'}"
    for name in recorded.keys() - used:
        yield f"{name} has an attachment in the store and no export"


def not_owned(manager: Manager, state: Path, pid: int) -> Iterator[str]:
    """Servers, sockets, keys, overlays and rows without an export. `pid`: the process that the manager is in."""
    every = exports(manager)
    unfinished = {export.id: export for export in every if not export.state.is_over}
    names = {export.name: export for export in every}
    served = [name for name, _ in servers() if name in names]
    for name in served:
        if names[name].id not in unfinished:
            yield f"a qemu-nbd serves {names[name].id}, which is {names[name].state}"
    for export in unfinished.values():
        if export.state is ExportState.READY and served.count(export.name) != 1:
            yield f"{export.id} is ready, and {served.count(export.name)} processes serve it"
    for directory in _directories(state) - unfinished.keys():
        yield f"{directory} is kept for an export that is over"
    for port in _listens(pid) - {export.port for export in unfinished.values()}:
        yield f"port {port} is open and belongs to no export"
    with reading(state) as store:
        yield from _rows_without_owners(store, unfinished)


def left_over(state: Path) -> Iterator[str]:
    """What a service keeps that has ended after its last export."""
    for directory in _directories(state):
        yield f"{directory} is left"
    with reading(state) as store:
        for table in ("claims", "attachments"):
            for row in store.execute(f"SELECT * FROM {table}"):  # noqa: S608 - names of ours
                yield f"{table} has {row}"
        yield from _rows_without_owners(store, {})
    for finding in check(f"sqlite:///{state}/cloudmanager.sqlite"):
        if finding.severity is not Severity.OK:
            yield f"store check: {finding.seen}"


def _rows_without_owners(store: sqlite3.Connection, unfinished: Mapping[str, Export]) -> Iterator[str]:
    """The claims are the reference count: one for each unfinished export and disk that it reads."""
    claims = {(export, disk): bool(alone) for export, disk, alone in store.execute("SELECT * FROM claims")}
    due = {
        (export.id, disk): disk == export.disk.canonical_id and export.access.writes_disk
        for export in unfinished.values()
        for disk in (export.disk.canonical_id, *export.disk.backing)
    }
    if claims != due:
        yield f"claims are {claims}, exports are {due}"
    for (_, disk), alone in claims.items():
        if alone and sum(claimed == disk for _, claimed in claims) > 1:
            yield f"{disk} is written and claimed by others"
    if store.execute("PRAGMA foreign_key_check").fetchall():
        yield "rows refer to rows that are not there"
    if (problems := store.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
        yield f"the store is damaged: {problems}"


@contextmanager
def reading(state: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"file:{state}/cloudmanager.sqlite?mode=ro", uri=True)) as store:
        yield store


def _directories(state: Path) -> set[str]:
    """Where overlays and keys are: named by their exports."""
    return {path.name for path in (state / "exports").iterdir()} if (state / "exports").exists() else set()


def _listens(pid: int) -> set[int]:
    """The TCP ports that a process listens on; none if it has just been killed."""
    ports = set()
    with suppress(FileNotFoundError, ProcessLookupError):
        rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
        listening = {f"socket:[{row[9]}]": int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}
        ports = {listening[link] for link in process.descriptors(pid).values() if link in listening}
    return ports


_NAME_OPTIONS = ("--export-name=", "exportname=")
"""qemu-nbd's and nbdkit's."""


def servers() -> Iterator[tuple[str, int]]:
    """Every server of this machine that serves an export, by the export's name."""
    for pid in process.all_pids():
        with suppress(OSError):
            arguments = process.command_line(pid)
            if arguments and Path(arguments[0]).name in ("qemu-nbd", "nbdkit"):
                for word in arguments:
                    if word.startswith(_NAME_OPTIONS):
                        yield word.partition("=")[2], pid


def processes_of(names: Collection[str]) -> list[int]:
    """Servers of these exports, and what is about to become one."""
    arguments = {f"{option}{name}" for name in names for option in _NAME_OPTIONS}
    found = []
    for pid in process.all_pids():
        with suppress(OSError):
            if arguments.intersection(process.command_line(pid)):
                found.append(pid)
    return found


def contradictions(manager: Manager) -> Iterator[str]:
    """The audit trail, replayed, is a story that can be, and ends where the store is."""
    stories: dict[str, list[AuditEvent]] = defaultdict(list)
    disks: dict[str, list[str]] = defaultdict(list)
    for event in reversed(events(manager)):
        kind, _, what = event.event.partition(".")
        if kind == "attachment":
            disks[event.disk_id].append(what)
        elif kind == "export":
            stories[event.export_id or ""].append(event)
    for export in exports(manager):
        yield from _contradicts(export, stories.pop(export.id, []))
    for export_id in stories:
        yield f"export {export_id} is in the audit trail and not in the store"
    records = {str(record.plan.disk.id): record.state.value for record in manager.attachments()}
    for disk in records.keys() - disks.keys():
        yield f"{disk} is {records[disk]}, and not in the audit trail"
    for disk, story in disks.items():
        yield from _breaks(disk, story, _ATTACHMENT_STORY)
        last = None if story[-1] in ("detached", "left") else story[-1]
        if last != records.get(disk):
            yield f"{disk} is {records.get(disk)}, by the audit trail {story}"


def _contradicts(export: Export, reported: Sequence[AuditEvent]) -> Iterator[str]:
    story = [event.event.partition(".")[2] for event in reported]
    changes = [what for what in story if what not in _NO_CHANGE]
    yield from _breaks(f"export {export.id}", changes, _EXPORT_STORY)
    if not changes or export.state not in _EXPORT_STATES[changes[-1]]:
        yield f"export {export.id} is {export.state}, by the audit trail {story}"
    for event in reported:
        if (event.node, event.disk_id, event.holder) != (export.node, str(export.disk.id), export.holder):
            yield f"{event} is told of {export}"
    promises = [event.detail for event in reported if event.event in ("export.renewed", "export.rebased")]
    if promises and promises[-1] not in (_REBASED, f"until {export.expires_at.isoformat()}"):
        yield f"export {export.id} expires at {export.expires_at}, by the audit trail {promises[-1]}"


def exports(manager: Manager) -> tuple[Export, ...]:
    return manager.list(ExportFilter(), limit=2000).items


def events(manager: Manager) -> list[AuditEvent]:
    """Newest first."""
    return list(manager.audit(limit=10000).items)


def _breaks(who: str, story: list[str], allowed: dict[str, set[str]]) -> Iterator[str]:
    for before, after in zip(["", *story], story, strict=False):
        if after not in allowed[before]:
            yield f"{who}: {after} after {before!a} in {story}"
