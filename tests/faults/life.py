"""The full life of one export, as a client sees it; and what must be true when it was cut and taken up again."""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cloudmanager import Access
from cloudmanager.core.clock import Clock
from cloudmanager.core.database import Database
from cloudmanager.core.manager import Manager
from cloudmanager.core.model import Export, ExportState
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.settings import Settings, from_tables
from cloudmanager.core.statedir import StateDirectory
from cloudmanager.core.store import Store
from cloudmanager.providers import local
from tests.core.bench import eventually
from tests.faults import invariants
from tests.faults.depot import SOMEBODY, Depot, DepotPlugin
from tests.faults.invariants import MiB
from tests.faults.points import CrashingHooks, Points, crashing_database
from tests.nbd.client import Client

DISK = "disk.img"
SIZE = 3 * MiB
MARK = b"written by the client".ljust(4096)
MARK_AT = 8192
TTL = timedelta(hours=2)
BOUND = 20.0


@dataclass(frozen=True)
class Life:
    """Which disk is exported, and how."""

    provider: str
    access: Access
    by_hand: bool = False
    """Somebody has attached it before."""
    shared: bool = False
    """Another export of the disk is being read all the time."""

    @property
    def writes(self) -> bool:
        return self.access is not Access.READ_ONLY


LIVES = {
    "read-only": Life("depot", Access.READ_ONLY),
    "scratch": Life("depot", Access.SCRATCH),
    "read-write": Life("depot", Access.READ_WRITE),
    "attached by hand": Life("depot", Access.READ_ONLY, by_hand=True),
    "shared": Life("depot", Access.READ_ONLY, shared=True),
    "local": Life("local", Access.SCRATCH),
}


def content() -> bytes:
    return random.Random(DISK).randbytes(SIZE)  # noqa: S311 - any bytes will do


class Stage:
    """A directory with everything that outlives a service: its state, the cloud, and what its client was told."""

    def __init__(self, directory: Path, life: Life) -> None:
        self.directory = directory
        self.life = life
        self.depot = Depot(directory / "depot")
        self.state = directory / "state"
        self._told = directory / "told"

    def set_up(self, schema: Path | None) -> None:
        """`schema` is an empty store of this version, so that not every service has to migrate its own."""
        (self.depot.disks / DISK).write_bytes(content())
        if self.life.by_hand:
            self.depot.attach(DISK, SOMEBODY)
        if schema:
            self.state.mkdir()
            shutil.copy(schema, self.state / "cloudmanager.sqlite")

    def settings(self) -> Settings:
        return from_tables(
            {
                "server": {"state_dir": str(self.state), "node": "here"},
                "exports": {"drain_seconds": 0, "reconcile_seconds": 0.1},
                "nbd": {"ports": "27000-28999"},
            }
        )

    def tell(self, **fields: object) -> None:
        """Notes what the service has answered."""
        with self._told.open("a") as told:
            told.write(json.dumps(fields) + "\n")

    def told(self) -> dict[str, object]:
        lines = self._told.read_text().splitlines() if self._told.exists() else []
        return {key: value for line in lines for key, value in json.loads(line).items()}

    def open(self, points: Points | None = None) -> Manager:
        """A service that converges; with points, one that can be killed at them."""
        depot = Depot(self.directory / "depot", points.reach) if points else self.depot
        others: list[tuple[str, object]] = [("points", CrashingHooks(points))] if points else []
        plugins = Plugins([("depot", DepotPlugin(depot)), ("local", local), *others])
        plugins.configure({"depot": {"type": "depot"}, "local": {"type": "local", "images": [str(self.depot.disks)]}})
        settings, clock = self.settings(), Clock()
        state = StateDirectory.open(settings.server.state_dir)
        database = (crashing_database(points) if points else Database).open(settings.store_url)
        manager = Manager(settings, plugins, Store(database, clock), clock, state)
        manager.start()
        return manager


def prelude(stage: Stage) -> None:
    """What an earlier service has done: the export of another client."""
    manager = stage.open()
    other = manager.wait(manager.export(f"depot:{DISK}", Access.READ_ONLY, "other", ttl=TTL).id, BOUND)
    stage.tell(other=other.id, other_port=other.port, other_name=other.name)
    manager.close()


def postlude(stage: Stage) -> list[str]:
    """The other client leaves too. What is left then."""
    manager = stage.open()
    try:
        if other := stage.told().get("other"):
            manager.release(str(other))
            eventually(lambda: not manager.attachments())
        wrong = [*invariants.wrongly_attached(manager, stage.depot, _by_hand(stage))]
        over = {export.id for export in invariants.exports(manager) if export.state.is_over}
        if len(over) != 1 + stage.life.shared:
            wrong.append(f"{len(over)} exports are over")
    finally:
        manager.close()
    return [*wrong, *invariants.left_over(stage.state, over)]


def live(stage: Stage, manager: Manager) -> None:
    """One export from the request to the end. A client that was cut says it all again, and gets the same answers."""
    export = _requested(stage, manager)
    if export.state is ExportState.READY:
        _write(stage, export)
        renewed = manager.renew(export.id, TTL)
        stage.tell(expires_at=renewed.expires_at.isoformat())
        _await_heartbeat(manager)
        manager.release(export.id)
        stage.tell(released=True)
    eventually(lambda: manager.get(export.id).state.is_over)
    if not stage.life.shared:
        eventually(lambda: not manager.attachments())


def _requested(stage: Stage, manager: Manager) -> Export:
    disk = f"{stage.life.provider}:{DISK}"
    export = manager.export(disk, stage.life.access, "client", idempotency_key="key")
    stage.tell(export=export.id)
    export = manager.wait(export.id, BOUND)
    if export.uri:
        stage.tell(uri=export.uri)
    return export


def _write(stage: Stage, export: Export) -> None:
    if stage.life.writes and export.port:
        with Client.greeted(export.port, export.name) as client:
            client.write(MARK_AT, MARK)
            client.flush()
        stage.tell(flushed=True)


def _await_heartbeat(manager: Manager) -> None:
    """Its writes are points too."""
    eventually(lambda: all(node.seen_at > node.started_at for node in manager.nodes()))


def take_up(stage: Stage) -> list[str]:
    """A service that is started where another was killed. What it does wrong."""
    manager = stage.open()
    try:
        wrong = [*_converged(stage, manager)]
        live(stage, manager)
        wrong += [*invariants.wrongly_attached(manager, stage.depot, _by_hand(stage))]
        wrong += [*invariants.contradictions(manager)]
    finally:
        manager.close()
    return wrong


def _converged(stage: Stage, manager: Manager) -> Iterator[str]:
    """Before the client is back."""
    eventually(lambda: all(e.state is ExportState.READY or e.state.is_over for e in invariants.exports(manager)))
    eventually(lambda: not [*invariants.wrongly_attached(manager, stage.depot, _by_hand(stage))])
    yield from invariants.contradictions(manager)
    told = stage.told()
    known = {export.id: export for export in invariants.exports(manager)}
    for export in known.values():
        if export.state is ExportState.READY:
            yield from _wrong_bytes(stage, export, told)
        elif export.state is ExportState.FAILED:
            yield f"the export failed: {export.error}"
    yield from _broken_promises(told, known)


def _broken_promises(told: dict[str, object], known: dict[str, Export]) -> Iterator[str]:
    if "export" not in told:
        return
    export = known.get(str(told["export"]))
    if export is None:
        yield "the export that the client was given does not exist"
    elif told.get("released"):
        if not export.state.is_over:
            yield f"the client released it, and it is {export.state}"
    elif export.state is ExportState.READY:
        if told.get("uri", export.uri) != export.uri:
            yield f"the client was given {told['uri']}, now it is {export.uri}"
        if "expires_at" in told and told["expires_at"] != export.expires_at.isoformat():
            yield f"renewed until {told['expires_at']}, it expires at {export.expires_at}"
    elif "expires_at" not in told:  # else the release may have been heard, and the answer lost
        yield f"the client did not release it, and it is {export.state}"


def _wrong_bytes(stage: Stage, export: Export, told: dict[str, object]) -> Iterator[str]:
    expected = bytearray(content())
    if told.get("flushed"):
        expected[MARK_AT : MARK_AT + len(MARK)] = MARK
    elif stage.life.writes and "uri" in told:
        return  # it was killed while it was being written to
    path = stage.directory / "expected"
    path.write_bytes(expected)
    yield from invariants.served_wrongly(export, path)


def _by_hand(stage: Stage) -> set[str]:
    return {DISK} if stage.life.by_hand else set()


def play(stage: Stage, kill_at: str | None) -> None:
    """A service and its client, until the end or until it is killed."""
    logging.basicConfig(level=logging.INFO)
    points = Points(stage.directory, kill_at)
    points.watch_this_process()
    manager = stage.open(points)
    live(stage, manager)
    manager.close()
