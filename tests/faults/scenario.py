"""The full scenario of one export, as a client sees it; and what must be true when it was cut and taken up again."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cloudmanager import Access
from cloudmanager.core.clock import Clock
from cloudmanager.core.manager import Manager
from cloudmanager.core.model import Export, ExportState
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.settings import Settings, from_tables
from cloudmanager.core.statedir import StateDirectory
from cloudmanager.core.store import Store
from cloudmanager.core.store.database import Database
from cloudmanager.core.wiring import assemble
from tests.core.nbd.client import Client
from tests.faults import invariants
from tests.faults.clouds import make_cloud, write_content
from tests.faults.points import CrashingHooks, Points, crashing_database, on_a_machine_of_its_own
from tests.waiting import eventually

MARK = b"written by the client".ljust(4096)
MARK_AT = 8192
TTL = timedelta(hours=2)
BOUND = 60.0


@dataclass(frozen=True)
class Scenario:
    """Which disk is exported, and how."""

    provider: str
    access: Access
    by_hand: bool = False
    """Somebody has attached it before."""
    shared: bool = False
    """Another export of the disk is being read all the time."""
    tls: bool = False

    @property
    def writes(self) -> bool:
        return self.access is not Access.READ_ONLY


SCENARIOS = {
    "read-only": Scenario("files", Access.READ_ONLY),
    "scratch": Scenario("files", Access.SCRATCH),
    "read-write": Scenario("files", Access.READ_WRITE),
    "attached by hand": Scenario("files", Access.READ_ONLY, by_hand=True),
    "shared": Scenario("files", Access.READ_ONLY, shared=True),
    "tls": Scenario("files", Access.READ_ONLY, tls=True),
    "local": Scenario("local", Access.SCRATCH),
    "gce": Scenario("gce", Access.READ_ONLY),
    "aws": Scenario("aws", Access.SCRATCH),
    "azure": Scenario("azure", Access.READ_WRITE),
    "gce, by hand": Scenario("gce", Access.READ_ONLY, by_hand=True),
    "aws, by hand": Scenario("aws", Access.READ_ONLY, by_hand=True),
    "azure, by hand": Scenario("azure", Access.READ_ONLY, by_hand=True),
}


class Stage:
    """A directory with everything that outlives a service: its state, the cloud, and what its client was told."""

    def __init__(self, directory: Path, scenario: Scenario, address: str = "", number: int = 0) -> None:
        """`address` and `number` name a machine of an emulated cloud."""
        self.directory = directory
        self.scenario = scenario
        self.cloud = make_cloud(scenario.provider, directory, address, number)
        self.state = directory / "state"
        self._told = directory / "told"

    def set_up(self, schema: Path | None) -> None:
        """`schema` is an empty store of this version, so that not every service has to migrate its own."""
        self.cloud.set_up(by_hand=self.scenario.by_hand)
        if schema:
            self.state.mkdir()
            shutil.copy(schema, self.state / "cloudmanager.sqlite")

    def settings(self) -> Settings:
        settings = from_tables(
            {
                "server": {"state_dir": str(self.state), "node": "here"},
                "exports": {"drain_seconds": 0, "reconcile_seconds": 0.1},
                "nbd": {"ports": "27000-28999", "tls": "psk" if self.scenario.tls else "off"},
            }
        )
        return on_a_machine_of_its_own(settings)

    def tell(self, **fields: object) -> None:
        """Notes what the service has answered."""
        with self._told.open("a") as reported:
            reported.write(json.dumps(fields) + "\n")

    def reported(self) -> dict[str, object]:
        lines = self._told.read_text().splitlines() if self._told.exists() else []
        return {key: value for line in lines for key, value in json.loads(line).items()}

    def open(self, points: Points | None = None) -> Manager:
        """A service that converges; with points, one that can be killed at them."""
        plugin = self.cloud.plugin(points.reach if points else None)
        others: list[tuple[str, object]] = [("points", CrashingHooks(points))] if points else []
        plugins = Plugins([(self.scenario.provider, plugin), *others])
        plugins.configure({self.scenario.provider: self.cloud.table()})
        settings, clock = self.settings(), Clock()
        state = StateDirectory.open(settings.server.state_dir)
        database = (crashing_database(points) if points else Database).open(settings.store_url)
        manager = assemble(settings, plugins, Store(database, clock), clock, state)
        manager.start()
        return manager

    def wrongly_attached(self, manager: Manager) -> list[str]:
        attached = self.cloud.attached()
        by_hand = self.cloud.by_hand() if self.scenario.by_hand else ()
        return [*invariants.wrongly_attached(manager, attached, by_hand)]


def prelude(stage: Stage) -> None:
    """What an earlier service has done: the export of another client."""
    manager = stage.open()
    other = manager.wait(manager.export(stage.cloud.disk, Access.READ_ONLY, "other", ttl=TTL).id, BOUND)
    stage.tell(other=other.id, other_port=other.port, other_name=other.name)
    manager.close()


def postlude(stage: Stage) -> list[str]:
    """The other client leaves too. What is left then."""
    manager = stage.open()
    try:
        if other := stage.reported().get("other"):
            manager.release(str(other))
            eventually(lambda: not manager.attachments())
        wrong = stage.wrongly_attached(manager)
        over = [export.id for export in invariants.exports(manager) if export.state.is_over]
        if len(over) != 1 + stage.scenario.shared:
            wrong.append(f"{len(over)} exports are over")
    finally:
        manager.close()
    return [*wrong, *invariants.left_over(stage.state), *stage.cloud.tear_down()]


def use_export(stage: Stage, manager: Manager) -> None:
    """One export from the request to the end. A client that was cut says it all again, and gets the same answers."""
    export = _requested(stage, manager)
    if export.state is ExportState.READY:
        _write(stage, export)
        stage.tell(renewing=True)
        renewed = manager.renew(export.id, TTL)
        stage.tell(renewing=False, expires_at=renewed.expires_at.isoformat())
        _await_heartbeat(manager)
        manager.release(export.id)
        stage.tell(released=True)
    eventually(lambda: manager.get(export.id).state.is_over)
    if not stage.scenario.shared:
        eventually(lambda: not manager.attachments())


def _requested(stage: Stage, manager: Manager) -> Export:
    export = manager.export(stage.cloud.disk, stage.scenario.access, "client", idempotency_key="key")
    stage.tell(export=export.id)
    export = manager.wait(export.id, BOUND)
    if export.uri:
        stage.tell(uri=export.uri, key=export.credentials and export.credentials.key)
    return export


def _write(stage: Stage, export: Export) -> None:
    if stage.scenario.writes and export.port:
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
        use_export(stage, manager)
        wrong += stage.wrongly_attached(manager)
        wrong += [*invariants.contradictions(manager)]
        wrong += [*invariants.not_owned(manager, stage.state, os.getpid())]
    finally:
        manager.close()
    return wrong


def _converged(stage: Stage, manager: Manager) -> Iterator[str]:
    """Before the client is back."""
    eventually(lambda: all(e.state is ExportState.READY or e.state.is_over for e in invariants.exports(manager)))
    eventually(lambda: not stage.wrongly_attached(manager))
    yield from invariants.contradictions(manager)
    yield from invariants.not_owned(manager, stage.state, os.getpid())
    reported = stage.reported()
    known = {export.id: export for export in invariants.exports(manager)}
    for export in known.values():
        if export.state is ExportState.READY:
            yield from _wrong_bytes(stage, export, reported)
        elif export.state is ExportState.FAILED:
            yield f"the export failed: {export.error}"
    yield from _broken_promises(reported, known)
    yield from _untold(reported, manager)


def _broken_promises(reported: dict[str, object], known: dict[str, Export]) -> Iterator[str]:
    if "export" not in reported:
        return
    export = known.get(str(reported["export"]))
    if export is None:
        yield "the export that the client was given does not exist"
    elif reported.get("released"):
        if not export.state.is_over:
            yield f"the client released it, and it is {export.state}"
    elif export.state is ExportState.READY:
        if reported.get("uri", export.uri) != export.uri:
            yield f"the client was given {reported['uri']}, now it is {export.uri}"
        if reported.get("key") and (export.credentials is None or reported["key"] != export.credentials.key):
            yield "the client was given another key"
        is_sure = "expires_at" in reported and not reported["renewing"]  # else another one may have been heard
        if is_sure and reported["expires_at"] != export.expires_at.isoformat():
            yield f"renewed until {reported['expires_at']}, it expires at {export.expires_at}"
    elif "expires_at" not in reported:  # else the release may have been heard, and the answer lost
        yield f"the client did not release it, and it is {export.state}"


def _untold(reported: dict[str, object], manager: Manager) -> Iterator[str]:
    """What a client was answered and the audit trail does not have."""
    due = {"export": "claimed", "uri": "ready", "expires_at": "renewed", "released": "closing"}
    events = {event.event for event in invariants.events(manager) if event.export_id == reported.get("export")}
    for answer, event in due.items():
        if answer in reported and f"export.{event}" not in events:
            yield f"the client was told its {answer}, and the audit trail has {sorted(events)}"


def _wrong_bytes(stage: Stage, export: Export, reported: dict[str, object]) -> Iterator[str]:
    if stage.scenario.writes and "uri" in reported and not reported.get("flushed"):
        return  # it was killed while it was being written to
    path = stage.directory / "expected"
    write_content(path, stage.cloud.size)
    if reported.get("flushed"):
        with path.open("r+b") as disk:
            disk.seek(MARK_AT)
            disk.write(MARK)
    yield from invariants.served_wrongly(export, path)


def play(stage: Stage, kill_at: str | None) -> None:
    """A service and its client, until the end or until it is killed."""
    logging.basicConfig(level=logging.INFO)
    points = Points(stage.directory, kill_at)
    points.watch_this_process()
    manager = stage.open(points)
    use_export(stage, manager)
    manager.close()
