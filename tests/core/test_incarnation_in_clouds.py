"""A disk of a cloud is deleted by hand and made anew under its name: played over HTTP, as a person would with curl."""

from __future__ import annotations

import sqlite3
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from cloudmanager import Access
from cloudmanager.core.model import Export, ExportState
from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.conformance.emulated import NODE
from tests.core.bench import processes_of
from tests.core.cloud_bench import CloudBench, opened_cloud, start_of
from tests.core.nbd.client import Client
from tests.waiting import eventually

ACCESSES = pytest.mark.parametrize("access", list(Access))


class ByHand:
    """The control API of the emulated cloud."""

    def __init__(self, bench: CloudBench) -> None:
        self._bench = bench
        trust = ssl.create_default_context(cafile=getattr(bench.cloud, "ca_file", None))
        self._client = httpx.Client(base_url=f"{bench.cloud.url}/_control/", verify=trust, timeout=60)

    def close(self) -> None:
        self._client.close()

    def ask(self, method: str, route: str, **document: object) -> dict[str, object]:
        answer = self._client.request(method, route, json=document)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def replace(self, disk: str) -> None:
        """Another disk of the name, all of whose bytes are zeros."""
        name = self._bench.harness.emulated_id(disk)
        if self._bench.harness.holders(disk):
            self.ask("DELETE", "attachments", disk=name, instance=NODE)
        self.ask("POST", "disks/recreate", disk=name)

    def attach(self, disk: str) -> None:
        self.ask("POST", "attachments", disk=self._bench.harness.emulated_id(disk), instance=NODE)


@pytest.fixture(params=["gce", pytest.param("azure", marks=pytest.mark.slow)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def bench(kind: str, tmp_path: Path) -> Iterator[CloudBench]:
    with opened_cloud(tmp_path, kind) as bench:
        yield bench


@pytest.fixture
def blind(kind: str, tmp_path: Path) -> Iterator[CloudBench]:
    """Nothing is looked at of itself, and disks linger."""
    with opened_cloud(tmp_path, kind, reconcile_seconds=600, linger_seconds=600) as bench:
        yield bench


@pytest.fixture
def by_hand(request: pytest.FixtureRequest) -> Iterator[ByHand]:
    name = "bench" if "bench" in request.fixturenames else "blind"
    hand = ByHand(request.getfixturevalue(name))
    yield hand
    hand.close()


def assert_replaced(bench: CloudBench, export: Export) -> None:
    failed = bench.over(export)
    assert failed.error is not None
    assert (failed.state, failed.error.code, failed.error.retriable) == (ExportState.FAILED, "disk_replaced", False)
    assert processes_of(export.name) == []


def assert_untouched(bench: CloudBench, disk: str) -> None:
    assert not any(bench.harness.content(disk))


def look(blind: CloudBench) -> None:
    """The regular look, now: with the default settings it comes every few seconds."""
    blind.clock.ahead = 600
    blind.manager._reconciler._drift.look(blind.provider)


@ACCESSES
def test_the_other_disk_is_neither_served_nor_attached(blind: CloudBench, by_hand: ByHand, access: Access) -> None:
    disk = blind.harness.make_disk()
    export = blind.ready(disk, access)
    with Client.greeted(export.port or 0, export.name) as client:
        by_hand.replace(disk)
        look(blind)
        assert client.is_cut()
    assert_replaced(blind, export)
    assert not blind.harness.holders(disk)
    eventually(lambda: not blind.manager.attachments())
    assert_untouched(blind, disk)


@ACCESSES
def test_the_other_disk_that_is_attached_by_hand_is_not_served(
    blind: CloudBench, by_hand: ByHand, access: Access
) -> None:
    disk = blind.harness.make_disk()
    export = blind.ready(disk, access)
    by_hand.replace(disk)
    by_hand.attach(disk)
    look(blind)
    assert_replaced(blind, export)
    assert_untouched(blind, disk)
    assert blind.harness.holders(disk) == [NODE]
    again = blind.ready(disk, Access.READ_WRITE)  # which is how it was attached by hand
    assert not any(start_of(again))
    assert again.id != export.id


@ACCESSES
def test_a_replacement_while_no_service_runs_is_found(bench: CloudBench, by_hand: ByHand, access: Access) -> None:
    disk = bench.harness.make_disk()
    export = bench.ready(disk, access)
    bench.manager.close()
    by_hand.replace(disk)
    by_hand.attach(disk)
    bench.open()
    assert_replaced(bench, export)
    assert_untouched(bench, disk)
    assert bench.harness.holders(disk) == [NODE]


@ACCESSES
def test_a_server_that_died_is_not_started_on_the_other_disk(
    blind: CloudBench, by_hand: ByHand, access: Access
) -> None:
    disk = blind.harness.make_disk()
    export = blind.ready(disk, access)
    by_hand.replace(disk)
    by_hand.attach(disk)
    blind.kill_server(export)
    assert_replaced(blind, export)
    assert_untouched(blind, disk)


def test_a_disk_that_was_replaced_while_it_lingered_is_another_one(blind: CloudBench, by_hand: ByHand) -> None:
    disk = blind.harness.make_disk()
    export = blind.ready(disk)
    blind.manager.release(export.id)
    blind.over(export)
    by_hand.replace(disk)
    again = blind.ready(disk)
    assert not any(start_of(again))
    assert again.disk.incarnation != export.disk.incarnation


def test_the_other_disk_does_not_wait_for_the_clients_of_one_that_is_gone(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with opened_cloud(tmp_path, kind, reconcile_seconds=600, drain_seconds=600) as bench:
        hand = ByHand(bench)
        request.addfinalizer(hand.close)
        disk = bench.harness.make_disk()
        export = bench.ready(disk, Access.READ_WRITE)
        with Client.greeted(export.port or 0, export.name) as client:
            bench.manager.release(export.id)
            hand.replace(disk)
            again = bench.ready(disk, Access.READ_WRITE)
            assert client.is_cut()
        assert bench.over(export).state is ExportState.CLOSED
        assert not any(start_of(again))


def test_what_lingered_is_not_detached_when_another_disk_has_its_name(blind: CloudBench, by_hand: ByHand) -> None:
    disk = blind.harness.make_disk()
    export = blind.ready(disk)
    blind.manager.release(export.id)
    blind.over(export)
    by_hand.replace(disk)
    by_hand.attach(disk)
    blind.clock.ahead = 601
    blind.manager._reconciler.poke(export.disk.canonical_id)
    eventually(lambda: not blind.manager.attachments())
    assert blind.harness.holders(disk) == [NODE]


def test_a_disk_that_is_replaced_between_plan_and_attach_is_not_attached(bench: CloudBench, by_hand: ByHand) -> None:
    disk = bench.harness.make_disk()
    bench.cloud.faults.add(Fault(bench.harness.attach_operation, Effect.THROTTLE, times=0))
    export = bench.manager.export(f"cloud:{disk}", Access.READ_WRITE, "alice")
    eventually(lambda: bench.manager.get(export.id).error)
    by_hand.replace(disk)
    assert_replaced(bench, bench.manager.get(export.id))
    bench.harness.recover()
    assert not bench.harness.holders(disk)


def test_a_disk_that_was_asked_for_by_its_number_is_that_number(tmp_path: Path) -> None:
    with opened_cloud(tmp_path, "gce", reconcile_seconds=600) as bench:
        disk = bench.harness.make_disk()
        number = bench.provider.describe(bench.ready(disk).disk.id).incarnation
        zone = disk.partition("/")[0]
        export = bench.ready(f"{zone}/{number}")
        assert export.disk.id.native == f"{zone}/{number}"
        assert start_of(export) == bench.harness.content(disk)
        hand = ByHand(bench)
        hand.replace(disk)
        hand.close()
        look(bench)
        assert_replaced(bench, export)
        assert not bench.harness.holders(disk)


def older(bench: CloudBench) -> None:
    """The store as a version without incarnations has left it. No manager is open."""
    with closing(sqlite3.connect(bench.settings.store_url.removeprefix("sqlite:///"))) as store:
        store.execute("UPDATE exports SET disk = json_remove(disk, '$.incarnation')")
        store.execute("UPDATE attachments SET plan = json_remove(plan, '$.disk.incarnation')")
        store.commit()


@ACCESSES
def test_what_an_older_version_has_claimed_is_known_by_its_time_of_creation(
    bench: CloudBench, by_hand: ByHand, access: Access
) -> None:
    disk = bench.harness.make_disk()
    export = bench.ready(disk, access)
    bench.manager.close()
    older(bench)
    by_hand.replace(disk)
    by_hand.attach(disk)
    bench.open()
    assert_replaced(bench, export)
    assert bench.harness.holders(disk) == [NODE]


def test_what_an_older_version_has_claimed_goes_on_and_its_incarnation_is_learned(bench: CloudBench) -> None:
    disk = bench.harness.make_disk()
    export = bench.ready(disk)
    bench.manager.close()
    older(bench)
    bench.open()
    assert bench.manager.get(export.id).disk.incarnation == ""
    pid = bench.pid(export)
    bench.kill_server(export)
    again = bench.served_anew(export, pid)
    assert again.disk == export.disk
    assert start_of(again) == bench.harness.content(disk)


@ACCESSES
def test_every_other_export_goes_on(blind: CloudBench, by_hand: ByHand, access: Access) -> None:
    disk, other = blind.harness.make_disk(), blind.harness.make_disk()
    kept = blind.ready(other, access)
    replaced = blind.ready(disk)
    by_hand.replace(disk)
    look(blind)
    assert_replaced(blind, replaced)
    assert start_of(kept) == blind.harness.content(other)
    assert blind.manager.get(kept.id).state is ExportState.READY
