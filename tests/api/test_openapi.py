"""The OpenAPI document and the page made from it."""

import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import validator_for

from cloudmanager.api.openapi import example
from cloudmanager.api.problems import by_code
from tests.api.service import Service, running, settings_for


@pytest.fixture
def document(service: Service) -> dict[str, Any]:
    made: dict[str, Any] = service.client.get("/openapi.json").json()
    return made


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_operation_says_what_it_does(document: dict[str, Any]) -> None:
    for _, path, operation in operations(document):
        assert operation["summary"], path
        assert operation["description"], path


def test_every_error_of_every_operation_is_a_problem_with_an_example(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        for status, answer in operation["responses"].items():
            if int(status) < 400 or (path, status) == ("/readyz", "503"):
                continue
            content = answer["content"]["application/problem+json"]
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}, (method, path, status)
            assert content["examples"], (method, path, status)


def test_every_example_is_valid(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        validator = validator_for({**schema, "components": document["components"]})
        validator.validate(example(document, {"$ref": f"#/components/schemas/{name}"}))


def test_every_example_of_a_problem_is_valid(document: dict[str, Any]) -> None:
    problem = document["components"]["schemas"]["Problem"]
    validator = validator_for({**problem, "components": document["components"]})
    for _, _, operation in operations(document):
        for answer in operation["responses"].values():
            for shown in answer.get("content", {}).get("application/problem+json", {}).get("examples", {}).values():
                validator.validate(shown["value"])


def test_the_longest_life_is_the_configured_one(directory: Path, tmp_path: Path) -> None:
    settings = settings_for(directory, server={"state_dir": str(tmp_path)}, exports={"max_ttl_seconds": 7777})
    with running(settings) as service:
        schemas = service.client.get("/openapi.json").json()["components"]["schemas"]
    for name in ("ExportRequest", "RenewRequest"):
        assert schemas[name]["properties"]["ttl_seconds"]["anyOf"][0]["maximum"] == 7777


def test_a_token_is_declared_where_one_is_needed(directory: Path, tmp_path: Path, document: dict[str, Any]) -> None:
    assert "securitySchemes" not in document["components"]
    token = "correct-horse"
    server = {"state_dir": str(tmp_path), "token_sha256": [hashlib.sha256(token.encode()).hexdigest()]}
    with running(settings_for(directory, server=server), token=token) as service:
        guarded = service.client.get("/openapi.json").json()
    assert guarded["paths"]["/v1/exports"]["get"]["security"] == [{"token": []}]
    assert guarded["paths"]["/healthz"]["get"]["security"] == []


class Page(HTMLParser):
    """Collects what a page refers to and what it offers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.references: set[str] = set()
        self.anchors: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("href", "src"):
                self.references.add(value or "")
            if name == "id":
                self.anchors.append(value or "")


def test_the_page_needs_nothing_from_elsewhere(service: Service) -> None:
    answer = service.client.get("/docs")
    page = Page(answer.text)
    assert not page.tags & {"script", "link", "img", "iframe", "object"}
    assert all(reference.startswith("#") or reference == "openapi.json" for reference in page.references)
    assert "url(" not in answer.text
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_the_page_has_a_place_for_every_operation_and_every_problem_type(
    service: Service, document: dict[str, Any]
) -> None:
    page = Page(service.client.get("/docs").text)
    assert len(page.anchors) == len(set(page.anchors))
    assert {reference.removeprefix("#") for reference in page.references} - {"openapi.json"} <= set(page.anchors)
    assert {operation["operationId"] for _, _, operation in operations(document)} <= set(page.anchors)
    problem = service.client.get("/v1/exports/nothing").json()
    assert problem["type"].removeprefix("/docs#") in page.anchors
    assert set(by_code()) <= set(page.anchors)


def test_the_page_calls_the_service_by_the_address_that_it_was_called_by(service: Service) -> None:
    shown = service.client.get("/docs", headers={"Host": "localhost:1234"}).text
    assert "http://localhost:1234/v1/exports" in shown


def test_the_page_does_not_take_markup_from_a_request(service: Service) -> None:
    shown = service.client.get("/docs", headers={"Host": 'localhost:"><script>alert(1)</script>'}).text
    assert not re.search(r"<script", shown)
