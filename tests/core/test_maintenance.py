"""What an operator orders: exports cut off, providers paused, nodes drained. On real qemu-nbd."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager import Access
from cloudmanager.core.errors import (
    ExportOver,
    InvalidRequest,
    NodeDraining,
    NodeNotFound,
    ProviderNotFound,
    ProviderPaused,
)
from cloudmanager.core.model import Export, ExportState, NodeState, Severity
from cloudmanager.core.records import AuditEvent, NodeRecord
from tests.core.bench import Bench, content, opened_bench
from tests.core.nbd.client import Client
from tests.waiting import eventually


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with opened_bench(tmp_path, drain_seconds=3600, linger_seconds=3600) as bench:
        yield bench


def connected(export: Export) -> Client:
    assert export.port
    return Client.greeted(export.port, export.name)


def events(bench: Bench, name: str) -> list[AuditEvent]:
    return [event for event in bench.manager.audit(limit=1000).items if event.event == name]


def here(bench: Bench) -> NodeRecord:
    (node,) = bench.manager.nodes()
    return node


# Force-release


def test_a_forced_release_has_cut_the_client_off_when_it_returns(bench: Bench) -> None:
    export = bench.ready()
    with connected(export) as client:
        bench.manager.maintenance.force_release(export.id, "nina", "The disk is evidence.")
        with pytest.raises(OSError):
            client.read(0, 512)
    assert bench.over(export).state is ExportState.CLOSED


def test_a_forced_release_ends_a_drain_that_is_under_way(bench: Bench) -> None:
    export = bench.ready()
    with connected(export) as client:
        bench.manager.release(export.id)
        assert client.read(0, 512)
        bench.manager.maintenance.force_release(export.id)
        with pytest.raises(OSError):
            client.read(0, 512)
    assert bench.over(export).state is ExportState.CLOSED


def test_a_forced_release_that_a_crash_cut_short_is_finished_by_the_next_service(bench: Bench) -> None:
    export = bench.ready()
    with connected(export):
        bench.manager.close()
        bench.open()
        bench.manager._store.exports.force_closing(export.id, "", "")
        bench.restart()
        assert bench.over(export).state is ExportState.CLOSED


def test_a_forced_release_cuts_no_other_client_of_the_disk(bench: Bench) -> None:
    export, other = bench.ready(), bench.ready(holder="bob")
    with connected(other) as client:
        bench.manager.maintenance.force_release(export.id)
        bench.over(export)
        assert client.read(0, 512)
    bench.manager.maintenance.force_release(other.id)


def test_a_forced_release_of_an_export_that_is_not_served_yet_ends_it(bench: Bench) -> None:
    bench.shelf.gate.clear()
    export = bench.manager.export("one:a.img", Access.READ_ONLY, "alice")
    assert bench.manager.maintenance.force_release(export.id).state is ExportState.CLOSING
    bench.shelf.gate.set()
    assert bench.over(export).state is ExportState.CLOSED


def test_the_trail_tells_once_who_forced_a_release_and_why(bench: Bench) -> None:
    export = bench.ready()
    for _ in range(2):
        bench.manager.maintenance.force_release(export.id, "nina", "The disk is evidence.")
    bench.over(export)
    bench.manager.maintenance.force_release(export.id, "otto", "Too late.")
    (forced,) = events(bench, "export.force-released")
    assert (forced.ordered_by, forced.detail) == ("nina", "The disk is evidence.")
    assert (forced.export_id, forced.holder, forced.disk_id) == (export.id, "alice", "one:a.img")
    assert [event.detail for event in events(bench, "export.closing")] == ["force-released"]


# Pause


def test_a_paused_provider_makes_no_new_export_and_says_who_paused_it(bench: Bench) -> None:
    bench.manager.maintenance.pause("one", "nina", "Their zone burns.")
    bench.shelf.calls.clear()
    with pytest.raises(ProviderPaused, match=r"by nina: Their zone burns\."):
        bench.manager.export("one:a.img", Access.READ_ONLY, "alice")
    assert bench.shelf.calls == [], "a cloud was asked that may be why it is paused"
    bench.manager.maintenance.force_release(bench.ready("two:a.img").id)


def test_exports_of_a_paused_provider_are_renewed_replaced_and_released(bench: Bench) -> None:
    export = bench.ready()
    bench.manager.maintenance.pause("one")
    before = bench.server_pid(export)
    bench.kill_server(export)
    eventually(lambda: bench.manager.get(export.id).state is ExportState.READY and bench.server_pid(export) != before)
    assert content(export)
    assert bench.manager.renew(export.id).expires_at > export.expires_at
    assert bench.end(export).state is ExportState.CLOSED


def test_a_request_from_before_the_pause_is_answered_with_its_export(bench: Bench) -> None:
    def ask() -> Export:
        return bench.manager.export("one:a.img", Access.READ_ONLY, "alice", idempotency_key="key")

    export = ask()
    bench.manager.maintenance.pause("one")
    assert ask().id == export.id


def test_a_pause_outlives_the_service_until_it_is_ended(bench: Bench) -> None:
    bench.manager.maintenance.pause("one", "nina")
    bench.restart()
    shown = {status.name: status.pause for status in bench.manager.providers()}
    assert shown["one"]
    assert (shown["one"].by, shown["two"]) == ("nina", None)
    with pytest.raises(ProviderPaused):
        bench.manager.export("one:a.img", Access.READ_ONLY, "alice")
    assert bench.manager.maintenance.resume("one", "otto").pause is None
    bench.manager.maintenance.force_release(bench.ready().id)


def test_the_trail_tells_who_paused_and_who_resumed(bench: Bench) -> None:
    for _ in range(2):  # the second changes nothing
        bench.manager.maintenance.pause("one", "nina", "Why not?")
    for _ in range(2):
        bench.manager.maintenance.resume("one", "otto", "Because.")
    (paused,), (resumed,) = events(bench, "provider.paused"), events(bench, "provider.resumed")
    assert (paused.provider, paused.ordered_by, paused.detail, paused.node) == ("one", "nina", "Why not?", "here")
    assert (resumed.provider, resumed.ordered_by, resumed.detail) == ("one", "otto", "Because.")


def test_a_provider_that_is_not_configured_cannot_be_paused(bench: Bench) -> None:
    with pytest.raises(ProviderNotFound, match="did you mean 'one'"):
        bench.manager.maintenance.pause("onee")


# Drain


def test_a_draining_node_takes_no_new_export_and_keeps_those_that_it_has(bench: Bench) -> None:
    export = bench.ready()
    assert bench.manager.maintenance.drain("here", "nina", "It moves.").state is NodeState.DRAINING
    with pytest.raises(NodeDraining, match="by nina: It moves"):
        bench.manager.export("two:b.img", Access.READ_ONLY, "bob")
    assert content(bench.manager.get(export.id))
    assert bench.manager.renew(export.id)


def test_a_node_is_drained_when_its_last_disk_has_been_detached_which_does_not_linger(bench: Bench) -> None:
    export = bench.ready()
    bench.end(bench.ready("one:b.img"))  # lingers
    assert here(bench).state is NodeState.ACTIVE
    bench.manager.maintenance.drain("here")
    eventually(lambda: here(bench).attachments == 1)
    assert bench.shelf.attached == {"shelf:a.img"}
    assert (here(bench).state, here(bench).exports) == (NodeState.DRAINING, 1)
    bench.end(export)
    eventually(lambda: here(bench).state is NodeState.DRAINED)
    assert not bench.shelf.attached


def test_a_drain_outlives_the_service_until_it_is_ended(bench: Bench) -> None:
    bench.manager.maintenance.drain("here", "nina")
    bench.restart()
    assert here(bench).state is NodeState.DRAINED
    with pytest.raises(NodeDraining):
        bench.manager.export("one:a.img", Access.READ_ONLY, "alice")
    assert bench.manager.maintenance.undrain("here", "otto").state is NodeState.ACTIVE
    bench.manager.maintenance.force_release(bench.ready().id)
    assert [events(bench, f"node.{what}")[0].ordered_by for what in ("draining", "undrained")] == ["nina", "otto"]


def test_a_node_that_is_not_known_cannot_be_drained(bench: Bench) -> None:
    with pytest.raises(NodeNotFound, match="use this store: here"):
        bench.manager.maintenance.drain("there")


# Both


def test_who_watches_the_service_sees_the_orders(bench: Bench) -> None:
    bench.manager.maintenance.pause("one", "nina")
    bench.manager.maintenance.drain("here", reason="It moves.")
    seen = {finding.subject: finding for finding in bench.manager.readiness() if finding.severity is Severity.WARNING}
    assert seen.keys() == {"provider one", "node here"}
    assert "by nina" in seen["provider one"].seen
    assert "It moves." in seen["node here"].seen


@pytest.mark.parametrize(("by", "reason"), [("a\nb", ""), (" ", ""), ("x" * 257, ""), ("", "\a"), ("", "x" * 4097)])
def test_who_orders_and_why_is_printable_text(bench: Bench, by: str, reason: str) -> None:
    with pytest.raises(InvalidRequest):
        bench.manager.maintenance.pause("one", by, reason)
    assert bench.manager.pauses()["one"] is None


def test_an_export_that_was_forced_out_cannot_be_renewed(bench: Bench) -> None:
    export = bench.ready()
    bench.manager.maintenance.force_release(export.id)
    with pytest.raises(ExportOver):
        bench.manager.renew(export.id)
