"""Who may call."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.datastructures import Headers

from cloudmanager.api.errors import HostRefused, OriginRefused, Unauthorized
from cloudmanager.api.guard import CallerGuard
from cloudmanager.core.settings import ServerSettings
from tests.api.service import Service, running, settings_for

TOKEN = "correct-horse-battery-staple"
DIGESTS = tuple(hashlib.sha256(token.encode()).hexdigest() for token in ("another", TOKEN))


@pytest.fixture(scope="module")
def guarded(directory: Path) -> Iterator[Service]:
    settings = settings_for(directory, server={"state_dir": str(directory / "guarded"), "token_sha256": DIGESTS})
    with running(settings, token=TOKEN) as service:
        yield service


def anonymous(service: Service, path: str, **headers: str) -> httpx.Response:
    return httpx.get(f"{service.url}{path}", headers=headers)


@pytest.mark.parametrize(
    "path", ["/v1/exports", "/v1/disks/local/a.img", "/metrics", "/docs", "/openapi.json", "/none"]
)
def test_nothing_is_answered_without_the_token(guarded: Service, path: str) -> None:
    answer = anonymous(guarded, path)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="cloudmanager"'


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_who_watches_the_service_needs_no_token(guarded: Service, path: str) -> None:
    assert anonymous(guarded, path).status_code == 200


def test_readiness_names_nobody_and_nothing_to_who_has_no_token(guarded: Service) -> None:
    why = {"by": "nina", "reason": "It is evidence."}
    guarded.client.post("/v1/providers/local/pause", json=why).raise_for_status()
    guarded.client.post("/v1/nodes/here/drain", json=why).raise_for_status()
    try:
        known = guarded.client.get("/readyz")
        unknown = [
            anonymous(guarded, "/readyz"),
            anonymous(guarded, "/readyz", Authorization="Bearer wrong"),
            anonymous(guarded, "/readyz?token=x", Authorization=f"Basic {TOKEN}"),
        ]
    finally:
        guarded.client.post("/v1/providers/local/resume", json={}).raise_for_status()
        guarded.client.post("/v1/nodes/here/undrain", json={}).raise_for_status()
    assert "nina" in known.text
    for answer in unknown:
        assert (answer.status_code, answer.json()["ready"]) == (200, True)
        assert not any(word in answer.text for word in ("nina", "evidence", "local", "here"))
        subjects = {each["subject"]: each["severity"] for each in answer.json()["findings"]}
        assert subjects == {"store": "ok", "reconciler": "ok", "provider": "warning", "node": "warning"}


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {DIGESTS[1]}", "Bearer \xe9"],
    ids=range(6),
)
def test_anything_but_the_token_is_refused_and_not_repeated(guarded: Service, authorization: str) -> None:
    answer = httpx.get(f"{guarded.url}/v1/nodes", headers=[(b"Authorization", authorization.encode("latin-1"))])
    assert answer.status_code == 401
    assert TOKEN not in answer.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_token_lets_in(guarded: Service, scheme: str) -> None:
    assert anonymous(guarded, "/v1/nodes", Authorization=f"{scheme} {TOKEN}").status_code == 200


def test_every_configured_token_lets_in(guarded: Service) -> None:
    assert anonymous(guarded, "/v1/nodes", Authorization="Bearer another").status_code == 200


def test_with_a_token_any_host_name_will_do(guarded: Service) -> None:
    assert guarded.client.get("/v1/nodes", headers={"Host": "lab.example:8600"}).status_code == 200


@pytest.mark.parametrize("host", ["rebound.example", "rebound.example:8600", "127.0.0.1.example", "", "[::1"])
def test_a_host_name_that_is_not_this_machines_is_refused(service: Service, host: str) -> None:
    answer = service.client.get("/v1/nodes", headers={"Host": host})
    assert (answer.status_code, answer.json()["code"]) == (421, "host_refused")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8600", "[::1]:8600", "127.1.2.3"])
def test_this_machines_names_are_answered(service: Service, host: str) -> None:
    assert service.client.get("/v1/nodes", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1", "file://"]
)
def test_a_page_of_another_site_is_refused(service: Service, origin: str) -> None:
    body = {"disk": "local:a.img", "holder": "page"}
    answer = service.client.post("/v1/exports", json=body, headers={"Origin": origin})
    assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")
    assert not service.client.get("/v1/exports", params={"holder": "page"}).json()["items"]


def test_a_page_of_the_service_itself_may_call_it(service: Service) -> None:
    assert service.client.get("/v1/nodes", headers={"Origin": service.url}).status_code == 200


def test_a_browser_is_not_told_that_other_sites_may_call(service: Service) -> None:
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = service.client.options("/v1/exports", headers=asked)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_two_host_headers_are_refused() -> None:
    headers = Headers(raw=[(b"host", b"localhost"), (b"host", b"rebound.example")])
    with pytest.raises(HostRefused):
        CallerGuard((), "127.0.0.1").check("/v1/nodes", headers)


def test_a_private_unix_socket_is_called_by_any_name() -> None:
    guard = CallerGuard.of(ServerSettings(listen="unix:/run/cloudmanager.sock"))
    guard.check("/v1/nodes", Headers({"host": "whatever"}))
    with pytest.raises(OriginRefused):
        guard.check("/v1/nodes", Headers({"host": "whatever", "origin": "http://evil.example"}))


def test_a_token_is_asked_for_on_a_unix_socket_too_if_there_is_one() -> None:
    guard = CallerGuard.of(ServerSettings(listen="unix:/run/cloudmanager.sock", token_sha256=DIGESTS))
    with pytest.raises(Unauthorized):
        guard.check("/v1/nodes", Headers({"host": "whatever"}))
