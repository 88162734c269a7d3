"""The OpenAPI document: what FastAPI derives from the routes, and what it cannot know."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from cloudmanager.api import answers, requests
from cloudmanager.api.guard import OPEN_PATHS
from cloudmanager.core.settings import Settings

Document = dict[str, Any]

_PLAIN = {
    "string": "",
    "integer": 0,
    "number": 0.0,
    "boolean": True,
    "date-time": "2026-01-31T12:00:00Z",
}


def resolved(document: Document, schema: Document) -> Document:
    """The schema itself, where it refers to another one or offers several, of which the first is taken."""
    if "$ref" in schema:
        return resolved(document, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    return resolved(document, schema["anyOf"][0]) if "anyOf" in schema else schema


def example(document: Document, schema: Document) -> Any:
    """A value that the schema describes, from the examples that it gives."""
    if {"type": "null"} in schema.get("anyOf", []) and "examples" not in schema:
        return None
    schema = schema if "examples" in schema else resolved(document, schema)
    if given := schema.get("examples") or schema.get("enum"):
        return given[0]
    match schema.get("type", ""):
        case "object":
            return {name: example(document, field) for name, field in schema.get("properties", {}).items()}
        case "array":
            return [example(document, schema["items"])]
        case kind:
            return schema.get("const", _PLAIN.get(str(schema.get("format", kind))))


DESCRIPTION = """\
A client names a disk and gets an NBD address with an expiry. The disk is attached to the machine that the service runs
on, and detached when nobody uses it any more.

Every error is problem+json (RFC 9457) with a stable `code`, a `detail` that says what to do, and `retriable`."""


def document(app: FastAPI, settings: Settings) -> Document:
    """The document of this app with these settings."""
    made = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=DESCRIPTION,
        routes=app.routes,
    )
    schemas = made["components"]["schemas"]
    problem = answers.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs"), Problem=problem)
    _limit_ttl(schemas, settings.exports.max_ttl_seconds)
    _show_what_follows(made["paths"]["/v1/exports"]["post"]["responses"]["201"])
    if settings.server.token_sha256:
        _require_token(made)
    return made


def _limit_ttl(schemas: Document, max_ttl_seconds: int) -> None:
    """The limit is a setting, which the core checks; here the document gets its value."""
    for request in (requests.ExportRequest, requests.RenewRequest):
        integer, _null = schemas[request.__name__]["properties"]["ttl_seconds"]["anyOf"]
        integer["maximum"] = max_ttl_seconds


def _require_token(made: Document) -> None:
    made["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, operations in made["paths"].items():
        for operation in operations.values():
            operation["security"] = [] if path in OPEN_PATHS else [{"token": []}]


def _show_what_follows(created: Document) -> None:
    """From the answer to a new export to the routes about it."""
    created["headers"] = {
        "Location": {"description": "The path of the export.", "schema": {"type": "string"}},
        "Preference-Applied": {"description": "How long it was waited for.", "schema": {"type": "string"}},
    }
    created["links"] = {
        name: {"operationId": name, "parameters": {"export_id": "$response.body#/id"}}
        for name in ("get_export", "renew_export", "release_export", "list_audit_events")
    }
