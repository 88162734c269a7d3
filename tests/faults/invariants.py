"""What must be true of a service that has converged, whatever happened to it. Each check yields what is wrong."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

from cloudmanager.core.manager import Manager
from cloudmanager.core.model import Export, ExportState
from cloudmanager.core.records import AuditEvent, ExportFilter
from tests.faults.depot import SOMEBODY, Depot
from tests.nbd.client import Client

MiB = 1 << 20

_EXPORT_STORY = {
    "": {"claimed"},
    "claimed": {"ready", "closing", "failed"},
    "ready": {"ready", "closing", "failed"},
    "closing": {"closed", "failed"},
    "closed": set(),
    "failed": set(),
}
"""Which event may follow which. A renewal and a reboot change no state."""
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
    "attached": {"detaching", "detached"},
    "foreign": {"left"},
    "detaching": {"attaching", "stuck", "detached"},
    "stuck": {"attaching", "detaching", "detached"},
    "detached": {"planned", "foreign"},
    "left": {"planned", "foreign"},
}


def served_wrongly(export: Export, path: Path) -> Iterator[str]:
    """A handshake, and the first and the last MiB."""
    assert export.port is not None
    try:
        with Client.greeted(export.port, export.name) as client, path.open("rb") as disk:
            for offset in (0, client.size - MiB):
                disk.seek(offset)
                if client.read(offset, MiB) != disk.read(MiB):
                    yield f"{export.id} serves other bytes at {offset}"
    except OSError as error:
        yield f"{export.id} is ready, but {error!r}"


def wrongly_attached(manager: Manager, depot: Depot, by_hand: Collection[str] = ()) -> Iterator[str]:
    """What is attached is somebody's: an export's, or whoever attached it by hand."""
    used = {export.disk.id.native for export in exports(manager) if not export.state.is_over}
    recorded = {record.plan.disk.id.native: record for record in manager.attachments()}
    tenures = depot.tenures()
    for name, tenure in tenures.items():
        if tenure.owner != SOMEBODY and name not in used:
            yield f"{name} is {tenure.state} for nobody"
    for name in by_hand:
        if name not in tenures or tenures[name].owner != SOMEBODY:
            yield f"{name} was attached by hand and is {tenures.get(name)}"
    for name in recorded.keys() - used:
        yield f"{name} has an attachment in the store and no export"


def left_over(state: Path, over: set[str]) -> Iterator[str]:
    """Directories, claims and attachments of exports that are over. The service has ended."""
    for directory in (state / "exports").iterdir() if (state / "exports").exists() else ():
        if directory.name in over:
            yield f"{directory} is left"
    with sqlite3.connect(state / "cloudmanager.sqlite") as store:
        for (export_id,) in store.execute("SELECT export_id FROM claims"):
            if export_id in over:
                yield f"{export_id} is over and still claims its disk"
        problems = store.execute("PRAGMA integrity_check").fetchall()
        if problems != [("ok",)]:
            yield f"the store is damaged: {problems}"
    store.close()


def contradictions(manager: Manager) -> Iterator[str]:
    """The audit trail is a story that can be, and ends where the store is."""
    stories: dict[str, list[str]] = defaultdict(list)
    disks: dict[str, list[str]] = defaultdict(list)
    for event in reversed(events(manager)):
        kind, _, what = event.event.partition(".")
        if kind == "attachment":
            disks[event.disk_id].append(what)
        elif what not in ("renewed", "rebased"):
            stories[event.export_id or ""].append(what)
    states = {export.id: export.state for export in exports(manager)}
    for export_id, story in stories.items():
        yield from _breaks(f"export {export_id}", story, _EXPORT_STORY)
        if states[export_id] not in _EXPORT_STATES[story[-1]]:
            yield f"export {export_id} is {states[export_id]}, by the audit trail {story}"
    records = {str(record.plan.disk.id): record.state.value for record in manager.attachments()}
    for disk, story in disks.items():
        yield from _breaks(disk, story, _ATTACHMENT_STORY)
        last = None if story[-1] in ("detached", "left") else story[-1]
        if last != records.get(disk):
            yield f"{disk} is {records.get(disk)}, by the audit trail {story}"


def exports(manager: Manager) -> tuple[Export, ...]:
    return manager.list(ExportFilter(), limit=2000).items


def events(manager: Manager) -> list[AuditEvent]:
    """Newest first."""
    return list(manager.audit(limit=10000).items)


def _breaks(who: str, story: list[str], allowed: dict[str, set[str]]) -> Iterator[str]:
    for before, after in zip(["", *story], story, strict=False):
        if after not in allowed[before]:
            yield f"{who}: {after} after {before!a} in {story}"
