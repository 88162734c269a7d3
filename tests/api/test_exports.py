"""Exports over HTTP, on real qemu-nbd."""

import hashlib
import subprocess
import uuid
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.api.service import Service, running, settings_for
from tests.authority import Authority
from tests.waiting import eventually

FIELDS = {
    *("id", "disk", "access", "holder", "state", "uri", "size_bytes", "format", "created_at", "expires_at", "node"),
    *("note", "tls", "credentials", "error", "logical_sector_bytes", "incarnation"),
}


def read(uri: object) -> bytes:
    """What a real client reads."""
    return subprocess.run(["nbdcopy", str(uri), "-"], check=True, capture_output=True, timeout=30).stdout


def body(disk: str, **fields: object) -> dict[str, object]:
    return {"disk": disk, "holder": "tester", **fields}


def test_a_disk_named_over_http_becomes_an_nbd_address(service: Service, directory: Path) -> None:
    export = service.export("local:a.qcow2", note="case 4711")
    expected = (directory / "images" / "a.img").read_bytes()
    assert (export["state"], export["error"], export["note"]) == ("ready", None, "case 4711")
    assert (export["size_bytes"], export["format"]) == (len(expected), "qcow2")
    assert hashlib.sha256(read(export["uri"])).hexdigest() == hashlib.sha256(expected).hexdigest()


def test_an_export_has_exactly_the_documented_fields(service: Service) -> None:
    assert set(service.export("local:a.img")) == FIELDS


def test_another_file_of_the_name_has_another_incarnation(service: Service, directory: Path) -> None:
    image, new = directory / "images" / "again.img", directory / "images" / "new.img"
    image.write_bytes(bytes(65536))
    first = service.export("local:again.img")
    disk = service.client.get("/v1/disks/local/again.img").json()
    assert first["incarnation"] == disk["incarnation"] != ""
    attachments = service.client.get("/v1/attachments").json()["items"]
    assert (first["incarnation"], disk["canonical_id"]) in [
        (each["incarnation"], each["canonical_id"]) for each in attachments
    ]
    new.write_bytes(image.read_bytes())
    new.replace(image)
    second = service.export("local:again.img")
    assert second["incarnation"] == service.client.get("/v1/disks/local/again.img").json()["incarnation"]
    assert second["incarnation"] != first["incarnation"]


def test_without_a_preference_the_answer_comes_at_once_and_names_the_new_export(service: Service) -> None:
    answer = service.client.post("/v1/exports", json=body("local:a.img"))
    assert answer.status_code == 201
    assert "Preference-Applied" not in answer.headers
    assert answer.json()["state"] in ("pending", "attaching", "ready")
    assert service.client.get(answer.headers["Location"]).json()["id"] == answer.json()["id"]


def test_a_look_at_an_export_can_wait_until_it_is_ready(service: Service) -> None:
    export = service.export("local:a.img", wait=None)
    answer = service.client.get(f"/v1/exports/{export['id']}", headers={"Prefer": "wait=20"})
    assert answer.json()["state"] == "ready"
    assert answer.headers["Preference-Applied"] == "wait=20"


def test_a_preference_is_bounded_and_says_so(service: Service) -> None:
    answer = service.client.post("/v1/exports", json=body("local:a.img"), headers={"Prefer": "wait=86400"})
    assert answer.headers["Preference-Applied"] == "wait=300"


@pytest.mark.parametrize("preference", ["respond-async, wait=20", 'Wait="20"', "wait = 20; how=patiently"])
def test_a_preference_is_read_as_rfc_7240_writes_it(service: Service, preference: str) -> None:
    answer = service.client.post("/v1/exports", json=body("local:a.img"), headers={"Prefer": preference})
    assert answer.headers["Preference-Applied"] == "wait=20"
    assert answer.json()["state"] == "ready"


@pytest.mark.parametrize("preference", ["wait=soon", "wait=-1", "wait", "await=20", "return=minimal"])
def test_a_preference_that_makes_no_sense_is_ignored(service: Service, preference: str) -> None:
    answer = service.client.post("/v1/exports", json=body("local:a.img"), headers={"Prefer": preference})
    assert answer.status_code == 201
    assert "Preference-Applied" not in answer.headers


def test_the_same_key_and_request_give_the_same_export(service: Service) -> None:
    key = {"Idempotency-Key": f'"{uuid.uuid4()}"', "Prefer": "wait=20"}
    first, again = (service.client.post("/v1/exports", json=body("local:b.img"), headers=key) for _ in range(2))
    assert (again.status_code, again.json()) == (first.status_code, first.json()) == (201, first.json())
    assert again.headers["Location"] == first.headers["Location"]


def test_a_key_with_and_without_the_quotes_of_the_draft_is_the_same(service: Service) -> None:
    key = str(uuid.uuid4())
    ids = {
        service.client.post("/v1/exports", json=body("local:b.img"), headers={"Idempotency-Key": spelled}).json()["id"]
        for spelled in (key, f'"{key}"')
    }
    assert len(ids) == 1


def test_the_same_key_with_another_request_is_refused(service: Service) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    service.client.post("/v1/exports", json=body("local:b.img"), headers=key)
    answer = service.client.post("/v1/exports", json=body("local:b.img", access="scratch"), headers=key)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")


def test_a_conflict_names_who_stands_in_the_way(service: Service) -> None:
    writer = service.export("local:c.img", "read-write", holder="writer-1")
    answer = service.client.post("/v1/exports", json=body("local:c.img"))
    assert (answer.status_code, answer.json()["code"], answer.json()["holder"]) == (409, "access_conflict", "writer-1")
    assert "writer-1" in answer.json()["detail"]
    service.client.delete(f"/v1/exports/{writer['id']}")


def test_renewing_starts_the_life_anew(service: Service) -> None:
    export = service.export("local:a.img", ttl_seconds=60)
    renewed = service.client.post(f"/v1/exports/{export['id']}/renew", json={"ttl_seconds": 7200}).json()
    gained = datetime.fromisoformat(renewed["expires_at"]) - datetime.fromisoformat(str(export["expires_at"]))
    assert timedelta(seconds=7140) <= gained < timedelta(seconds=7170)


def test_renewing_without_a_ttl_takes_the_configured_one(service: Service) -> None:
    export = service.export("local:a.img", ttl_seconds=60)
    renewed = service.client.post(f"/v1/exports/{export['id']}/renew", json={}).json()
    left = datetime.fromisoformat(renewed["expires_at"]) - datetime.fromisoformat(str(export["created_at"]))
    assert left >= timedelta(seconds=3600)


def test_releasing_closes_and_may_be_repeated(service: Service) -> None:
    path = f"/v1/exports/{service.export('local:a.img')['id']}"
    assert service.client.delete(path).json()["state"] in ("closing", "closed")
    eventually(lambda: service.client.get(path).json()["state"] == "closed", "it did not close")
    again = service.client.delete(path)
    assert (again.status_code, again.json()["state"], again.json()["uri"]) == (200, "closed", None)


def test_what_is_over_cannot_be_renewed(service: Service) -> None:
    path = f"/v1/exports/{service.export('local:a.img')['id']}"
    service.client.delete(path)
    answer = service.client.post(f"{path}/renew", json={})
    assert (answer.status_code, answer.json()["code"]) == (409, "export_over")


def test_an_export_that_nobody_renews_closes_by_itself(service: Service) -> None:
    path = f"/v1/exports/{service.export('local:a.img', ttl_seconds=1)['id']}"
    eventually(lambda: service.client.get(path).json()["state"] == "closed", "it did not expire")


def test_exports_are_listed_by_what_is_asked_for(service: Service) -> None:
    holder = f"lister-{uuid.uuid4()}"
    scratch = service.export("local:a.img", "scratch", holder=holder)
    reader = service.export("local:b.img", holder=holder)
    service.client.delete(f"/v1/exports/{reader['id']}")

    def listed(**parameters: object) -> set[str]:
        answer = service.client.get("/v1/exports", params={"holder": holder, **parameters})  # type: ignore[dict-item]
        return {export["id"] for export in answer.json()["items"]}

    assert listed() == {scratch["id"], reader["id"]}
    assert listed(disk="local:a.img") == listed(access="scratch") == listed(state="ready") == {scratch["id"]}
    assert listed(state=["closing", "closed"]) == {reader["id"]}
    assert listed(node="here", state=["ready", "closing", "closed"]) == {scratch["id"], reader["id"]}
    assert listed(node="elsewhere") == set()


def test_a_list_is_walked_page_by_page(service: Service) -> None:
    holder = f"pager-{uuid.uuid4()}"
    made = {service.export("local:a.img", holder=holder, wait=None)["id"] for _ in range(5)}
    pages: list[list[str]] = []
    page: str | None = None
    while page is not None or not pages:
        parameters = {"holder": holder, "limit": "2", **({"page": page} if page else {})}
        listed = service.client.get("/v1/exports", params=parameters).json()
        pages.append([export["id"] for export in listed["items"]])
        page = listed["next_page"]
    assert [len(each) for each in pages] == [2, 2, 1]
    assert {export_id for each in pages for export_id in each} == made


def test_with_certificates_nothing_is_handed_out_and_the_answer_says_what_is_wanted(directory: Path) -> None:
    authority = Authority()
    certificates = authority.server(directory / "certificates")
    nbd = {"tls": "x509", "tls_certificates": str(certificates)}
    with running(settings_for(directory, server={"state_dir": str(directory / "x509")}, nbd=nbd)) as service:
        export = service.export("local:a.img")
        assert (export["state"], export["tls"], export["credentials"]) == ("ready", "x509", None)
        mine = authority.client(directory / "client")
        assert read(f"{export['uri']}?tls-certificates={mine}") == (directory / "images" / "a.img").read_bytes()


def test_keys_are_shown_to_who_connects_and_to_nobody_else(directory: Path) -> None:
    settings = settings_for(directory, server={"state_dir": str(directory / "tls")}, nbd={"tls": "psk"})
    with running(settings) as service:
        export = service.export("local:a.img")
        path = f"/v1/exports/{export['id']}"
        credentials = export["credentials"]
        assert export["tls"] == "psk"
        assert isinstance(credentials, dict)
        assert set(credentials) == {"type", "username", "key"}
        assert service.client.get(path).json()["credentials"] == credentials
        assert service.client.post(f"{path}/renew", json={}).json()["credentials"] == credentials
        for answer in (service.client.get("/v1/exports"), service.client.get("/v1/audit"), service.client.delete(path)):
            assert answer.status_code == 200
            assert credentials["key"] not in answer.text
