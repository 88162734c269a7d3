"""An operator's orders over HTTP, and what others see of them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cloudmanager.client import AsyncCloudManager, CloudManager, errors
from tests.api.service import Service, running, settings_for
from tests.api.test_metrics import samples
from tests.core.nbd.client import Client
from tests.waiting import eventually

WHY = {"by": "nina", "reason": "The zone is being evacuated."}


@pytest.fixture
def ordered(directory: Path, tmp_path: Path) -> Iterator[Service]:
    exports = {"drain_seconds": 3600}
    with running(settings_for(directory, server={"state_dir": str(tmp_path)}, exports=exports)) as service:
        yield service


def order(service: Service, path: str, **why: str) -> httpx.Response:
    return service.client.post(f"/v1/{path}", json=why)


def only(service: Service, path: str) -> dict[str, object]:
    (item,) = service.client.get(f"/v1/{path}").json()["items"]
    found: dict[str, object] = item
    return found


def connected(export: dict[str, object]) -> Client:
    port, name = str(export["uri"]).removeprefix("nbd://127.0.0.1:").split("/")
    return Client.greeted(int(port), name)


def test_a_forced_release_cuts_off_a_client_that_is_given_its_time_to_finish(ordered: Service) -> None:
    export = ordered.export("local:a.img")
    with connected(export) as client:
        assert ordered.client.delete(f"/v1/exports/{export['id']}").json()["state"] == "closing"
        answer = order(ordered, f"exports/{export['id']}/force-release", **WHY)
        assert (answer.status_code, answer.json()["credentials"]) == (200, None)
        with pytest.raises(OSError):
            client.read(0, 512)
    eventually(lambda: only(ordered, "exports")["state"] == "closed", "it is not closed")
    events = ordered.client.get("/v1/audit", params={"export_id": str(export["id"])}).json()["items"]
    (forced,) = [event for event in events if event["event"] == "export.force-released"]
    assert (forced["ordered_by"], forced["detail"], forced["holder"]) == ("nina", WHY["reason"], "tester")


def test_a_paused_provider_says_so_to_who_asks_for_an_export(ordered: Service) -> None:
    pause = order(ordered, "providers/local/pause", **WHY).json()["pause"]
    assert {name: pause[name] for name in WHY} == WHY
    assert only(ordered, "providers")["pause"] == pause
    answer = ordered.client.post("/v1/exports", json={"disk": "local:a.img", "holder": "tester"})
    assert (answer.status_code, answer.json()["code"]) == (409, "provider_paused")
    assert "by nina: The zone is being evacuated." in answer.json()["detail"]
    assert samples(ordered)["cloudmanager_provider_paused", (("provider", "local"),)] == 1
    assert order(ordered, "providers/local/resume").json()["pause"] is None
    assert samples(ordered)["cloudmanager_provider_paused", (("provider", "local"),)] == 0
    ordered.client.post(f"/v1/exports/{ordered.export('local:a.img')['id']}/force-release", json={})


def test_a_draining_node_shows_what_is_left_until_nothing_is(ordered: Service) -> None:
    export = ordered.export("local:a.img")
    answer = order(ordered, "nodes/here/drain", **WHY).json()
    assert (answer["state"], answer["exports"], answer["attachments"]) == ("draining", 1, 1)
    assert {name: answer["drain"][name] for name in WHY} == WHY
    refused = ordered.client.post("/v1/exports", json={"disk": "local:b.img", "holder": "tester"})
    assert (refused.status_code, refused.json()["code"]) == (409, "node_draining")
    assert samples(ordered)["cloudmanager_node_draining", (("node", "here"),)] == 1
    ordered.client.delete(f"/v1/exports/{export['id']}")
    eventually(lambda: only(ordered, "nodes")["state"] == "drained", "it is not drained")
    assert order(ordered, "nodes/here/undrain").json()["state"] == "active"


def test_a_service_with_orders_is_ready_and_says_which(ordered: Service) -> None:
    order(ordered, "providers/local/pause", **WHY)
    order(ordered, "nodes/here/drain")
    answer = ordered.client.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (200, True)
    warned = {each["subject"]: each["seen"] for each in answer.json()["findings"] if each["severity"] == "warning"}
    assert warned.keys() == {"provider local", "node here"}
    assert "by nina" in warned["provider local"]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("exports/nothing/force-release", "export_not_found"),
        ("providers/nothing/pause", "provider_not_found"),
        ("providers/nothing/resume", "provider_not_found"),
        ("nodes/nothing/drain", "node_not_found"),
        ("nodes/nothing/undrain", "node_not_found"),
    ],
)
def test_an_order_about_what_there_is_not_is_a_404(ordered: Service, path: str, code: str) -> None:
    answer = order(ordered, path)
    assert (answer.status_code, answer.json()["code"]) == (404, code)


def test_an_order_needs_a_token_where_there_is_one(directory: Path, tmp_path: Path) -> None:
    server = {"state_dir": str(tmp_path), "token_sha256": ["0" * 64]}
    with running(settings_for(directory, server=server)) as service:
        assert order(service, "providers/local/pause").status_code == 401
        assert service.manager.pauses()["local"] is None


async def _given_by_coroutines(url: str, export_id: str) -> list[object]:
    async with AsyncCloudManager(url) as manager:
        paused, draining = await manager.pause("local", by="nina"), await manager.drain("here", reason="It moves.")
        cut = await manager.force_release(export_id)
        resumed, active = await manager.resume("local"), await manager.undrain("here")
    assert paused.pause
    assert draining.drain
    return [paused.pause.by, draining.drain.reason, cut.state.is_live, resumed.pause, active.state]


def test_the_clients_give_every_order(ordered: Service) -> None:
    cut = str(ordered.export("local:a.img")["id"])
    reported = asyncio.run(_given_by_coroutines(ordered.url, cut))
    assert reported == ["nina", "It moves.", False, None, "active"]
    with CloudManager(ordered.url) as manager:
        manager.pause("local", by="nina")
        with pytest.raises(errors.ProviderPaused, match="by nina"):
            manager.claim("local:a.img")
        manager.resume("local")
        manager.drain("here")
        with pytest.raises(errors.NodeDraining):
            manager.claim("local:a.img")
        manager.undrain("here")
        assert not manager.force_release(manager.claim("local:a.img").id).state.is_live
