"""Whatever is sent, the answer is a problem with a stable code and a sentence, and the service stays up."""

import json
import os
import socket
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.api.service import Service

GOOD = {"disk": "local:a.img", "holder": "tester"}


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, object]:
    problem: dict[str, object] = answer.json()
    assert (answer.status_code, problem.get("code")) == (status, code), answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["status"] == status
    assert str(problem["detail"]).endswith((".", "?"))
    assert problem["title"]
    return problem


def post(service: Service, **fields: object) -> httpx.Response:
    content = json.dumps({**GOOD, **fields})  # unlike httpx's own, it writes NaN and lone surrogates
    return service.client.post("/v1/exports", content=content, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize(
    ("disk", "status", "code"),
    [
        ("", 422, "invalid_disk_id"),
        ("web01", 422, "invalid_disk_id"),
        ("local:", 422, "invalid_disk_id"),
        ("local:" + "x" * 10_000, 422, "invalid_disk_id"),
        ("local:\ud800", 422, "invalid_disk_id"),
        ("local:a\x00b", 422, "invalid_disk_id"),
        ("nowhere:a.img", 404, "provider_not_found"),
        ("local:nothing.img", 404, "disk_not_found"),
        ("local:empty.img", 422, "empty_image"),
        ("local:truncated.qcow2", 422, "corrupt_image"),
        ("local:backed.qcow2", 422, "unsafe_image"),
        ("local:evidence.E01", 422, "not_a_disk"),
        ("local:bomb.vdi", 422, "unreasonable_image"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_disk_that_cannot_be_exported(service: Service, disk: str, status: int, code: str) -> None:
    assert_problem(post(service, disk=disk), status, code)


@pytest.mark.parametrize("disk", ["local:../secret", "local:/etc/passwd", "local:x/../../etc/passwd"])
def test_a_path_out_of_the_images_is_refused(service: Service, disk: str) -> None:
    answer = post(service, disk=disk)
    assert answer.status_code in (404, 422)
    assert_problem(answer, answer.status_code, answer.json()["code"])


@pytest.mark.parametrize(
    "ttl", [0, -1, 10**9, 10**30, 10**400, 1.5, 60.0, float("nan"), float("inf"), True, "60", [], {}], ids=repr
)
def test_a_life_that_is_no_length_of_time(service: Service, ttl: object) -> None:
    problem = assert_problem(post(service, ttl_seconds=ttl), 422, "invalid_request")
    assert "ttl_seconds" in str(problem["detail"])


@pytest.mark.parametrize("access", ["readonly", "READ-ONLY", "", None, 1, ["read-only"]], ids=repr)
def test_an_access_that_does_not_exist(service: Service, access: object) -> None:
    problem = assert_problem(post(service, access=access), 422, "invalid_request")
    assert "'read-only', 'scratch' or 'read-write'" in str(problem["detail"])
    assert problem["errors"] == [
        {"pointer": "#/access", "parameter": None, "detail": "Input should be 'read-only', 'scratch' or 'read-write'."}
    ]


@pytest.mark.parametrize("field", ["disk", "holder", "note"])
@pytest.mark.parametrize("value", [None, 1, True, [], {}], ids=repr)
def test_a_field_of_the_wrong_type(service: Service, field: str, value: object) -> None:
    problem = assert_problem(post(service, **{field: value}), 422, "invalid_request")
    assert [mistake["pointer"] for mistake in problem["errors"]] == [f"#/{field}"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("holder", ["", " ", "\n", "a\x00b", "x" * 1000, "\ud800"], ids=lambda value: ascii(value)[:20])
def test_a_holder_that_is_no_name(service: Service, holder: str) -> None:
    assert "holder" in str(assert_problem(post(service, holder=holder), 422, "invalid_request")["detail"])


def test_an_unknown_field_names_the_near_miss(service: Service) -> None:
    problem = assert_problem(post(service, acess="scratch"), 422, "invalid_request")
    assert "did you mean 'access'?" in str(problem["detail"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/exports"),
        ("POST", "/v1/exports/x/renew"),
        ("DELETE", "/v1/exports/x"),
        ("GET", "/v1/exports/x"),
        ("GET", "/v1/attachments"),
        ("POST", "/v1/providers/local/pause"),
    ],
)
def test_a_parameter_of_a_route_without_any_is_refused(service: Service, method: str, path: str) -> None:
    body = GOOD if path == "/v1/exports" else {}
    answer = service.client.request(method, f"{path}?access=read-write", json=body if method == "POST" else None)
    problem = assert_problem(answer, 422, "invalid_request")
    assert problem["errors"] == [
        {"pointer": None, "parameter": "access", "detail": "This route has no such parameter."}
    ]


def test_an_unknown_parameter_names_the_near_miss(service: Service) -> None:
    problem = assert_problem(service.client.get("/v1/exports?stat=ready"), 422, "invalid_request")
    assert problem["errors"] == [
        {"pointer": None, "parameter": "stat", "detail": "There is no such field; did you mean 'state'?"}
    ]


def test_values_are_not_repeated_because_one_may_be_a_secret(service: Service) -> None:
    answer = post(service, ttl_seconds="hunter2", access="hunter2", note={"hunter2": "hunter2"})
    assert_problem(answer, 422, "invalid_request")
    assert "hunter2" not in answer.text


def test_a_thousand_mistakes_make_a_short_answer(service: Service) -> None:
    answer = post(service, **{f"field{number}": number for number in range(1000)})
    assert_problem(answer, 422, "invalid_request")
    assert len(answer.content) < 5000


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"{",
            b"",
            b"{'disk': 1}",
            b"\xff\xfe",
            b'{"disk": "\xff"}',
            b"[" * 60_000,
            b'{"ttl_seconds": ' + b"9" * 5000,
        ),
        b'{"disk": "local:a.img", "holder": "tester", "ttl_seconds": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda content: ascii(content[:12]),
)
def test_a_body_that_is_no_json(service: Service, content: bytes) -> None:
    answer = service.client.post("/v1/exports", content=content, headers={"Content-Type": "application/json"})
    status, code = (400, "malformed_request") if content else (422, "invalid_request")
    assert_problem(answer, status, code)


@pytest.mark.parametrize("content", [b"[]", b"null", b'"disk"', b"1"])
def test_a_body_that_is_no_object(service: Service, content: bytes) -> None:
    answer = service.client.post("/v1/exports", content=content, headers={"Content-Type": "application/json"})
    assert_problem(answer, 422, "invalid_request")


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
def test_a_body_that_is_not_announced_as_json(service: Service, media_type: str | None) -> None:
    """A page of another site can send these, and nothing else, without being asked."""
    headers = {"Content-Type": media_type} if media_type else {}
    answer = service.client.post("/v1/exports", content=json.dumps(GOOD), headers=headers)
    assert_problem(answer, 415, "unsupported_media_type")


def test_a_body_that_is_too_large(service: Service) -> None:
    assert_problem(post(service, note="x" * 70_000), 413, "request_too_large")


def test_a_body_that_is_too_large_and_does_not_say_so(service: Service) -> None:
    chunks = (b'{"note": "' + b"x" * 7000 if number == 0 else b"x" * 7000 for number in range(10))
    answer = service.client.post("/v1/exports", content=chunks, headers={"Content-Type": "application/json"})
    assert_problem(answer, 413, "request_too_large")


@pytest.mark.parametrize(
    ("export_id", "code"),
    [("nothing", "export_not_found"), ("x" * 5000, "export_not_found"), ("..%2f..%2fetc", "route_not_found")],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("DELETE", ""), ("POST", "/renew")])
def test_an_export_that_does_not_exist(service: Service, export_id: str, code: str, method: str, suffix: str) -> None:
    body = {"ttl_seconds": 60} if method == "POST" else None
    answer = service.client.request(method, f"/v1/exports/{export_id}{suffix}", json=body)
    assert_problem(answer, 404, code)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/disks/nowhere/a.img", 404, "provider_not_found"),
        ("/v1/disks/local/nothing.img", 404, "disk_not_found"),
        ("/v1/disks/local/", 422, "invalid_disk_id"),
        ("/v1/disks/LOCAL/a.img", 422, "invalid_disk_id"),
        ("/v1/disks/local/" + "x" * 10_000, 422, "invalid_disk_id"),
        ("/v1/disks/local/%ff", 400, "malformed_request"),
        ("/v1/disks/local/%c3%28", 400, "malformed_request"),
        ("/v1/disks/local/a%00b", 400, "malformed_request"),
        ("/v1/disks/local/a%0ab", 400, "malformed_request"),
        ("/v1/disks?q=%ff", 400, "malformed_request"),
        ("/v1/disks?provider=nowhere", 404, "provider_not_found"),
        ("/v1/disks?label=case", 422, "invalid_request"),
        ("/v1/disks?page=elsewhere:1", 422, "invalid_request"),
        ("/v1/exports?state=open", 422, "invalid_request"),
        ("/v1/exports?limit=0", 422, "invalid_request"),
        ("/v1/exports?limit=1001", 422, "invalid_request"),
        ("/v1/exports?limit=many", 422, "invalid_request"),
        ("/v1/audit?page=elsewhere", 422, "invalid_request"),
        ("/v1/nothing", 404, "route_not_found"),
        ("/v1/exports/", 404, "route_not_found"),
        ("/", 404, "route_not_found"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_address_that_leads_nowhere(service: Service, path: str, status: int, code: str) -> None:
    assert_problem(service.client.get(path), status, code)


@pytest.mark.parametrize("path", ["..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "%2fetc%2fpasswd"])
def test_a_path_out_of_the_images_is_refused_in_an_address_too(service: Service, path: str) -> None:
    answer = service.client.get(f"/v1/disks/local/{path}")
    assert answer.status_code in (404, 422)
    assert_problem(answer, answer.status_code, answer.json()["code"])


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/exports", "GET, POST"),
        ("PATCH", "/v1/exports/1", "DELETE, GET"),
        ("GET", "/v1/exports/1/renew", "POST"),
        ("DELETE", "/v1/disks/local/a.img", "GET"),
        ("OPTIONS", "/healthz", "GET"),
    ],
)
def test_a_method_that_the_route_does_not_have(service: Service, method: str, path: str, allowed: str) -> None:
    answer = service.client.request(method, path)
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == allowed


@pytest.mark.parametrize("key", ["", '""', "x" * 300], ids=lambda key: key[:5])
def test_an_idempotency_key_that_is_none(service: Service, key: str) -> None:
    answer = service.client.post("/v1/exports", json=GOOD, headers={"Idempotency-Key": key})
    assert_problem(answer, 422, "invalid_request")


def test_a_request_whose_head_does_not_end_is_cut_off(service: Service) -> None:
    """Anybody may send one, before a token is looked at: it must not fill the memory."""
    host, port = service.url.removeprefix("http://").split(":")
    sent = 0
    with socket.create_connection((host, int(port))) as client, suppress(ConnectionError):
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
        while sent < 50 << 20:
            client.sendall(b"x" * 65536)
            sent += 65536
    assert sent < 10 << 20
    assert service.client.get("/healthz").status_code == 200


def test_a_file_whose_name_is_no_utf_8_does_not_break_the_list(service: Service, directory: Path) -> None:
    odd = directory / "images" / os.fsdecode(b"odd-\xff.img")
    odd.write_bytes(bytes(1 << 20))
    answer = service.client.get("/v1/disks")
    odd.unlink()
    assert answer.status_code == 200
    assert "local:a.img" in {disk["id"] for disk in answer.json()["items"]}


def test_an_answer_is_neither_kept_nor_guessed_at(service: Service) -> None:
    headers = service.client.get("/v1/exports").headers
    assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
