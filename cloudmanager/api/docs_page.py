"""The page at /docs: the OpenAPI document as plain HTML.

The usual pages (Swagger UI, ReDoc) load a megabyte of scripts from a content delivery network, and an investigator's
network has none. This one needs no script, and its content security policy allows none.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from html import escape

from cloudmanager.api.openapi import Document, example, resolved
from cloudmanager.api.problems import STATUS, by_code

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; }
h2 { border-top: 1px solid #8884; padding-top: 1em; }
h2 code { background: none; padding: 0; }
code, pre { font: 14px/1.4 ui-monospace, monospace; background: #8882; padding: .1em .3em; }
pre { padding: .7em; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .25em .8em .25em 0; border-bottom: 1px solid #8883; }
:root { color-scheme: light dark; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-{_STYLE_HASH}'"


def docs_page(document: Document, address: str) -> str:
    """The whole page. `address` is where the examples call the service."""
    info = document["info"]
    operations = list(_operations(document))
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>",
        f"<style>{STYLE}</style>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p><b>{escape(info['summary'])}.</b>",
        *(f"<p>{_prose(paragraph)}" for paragraph in info["description"].split("\n\n")),
        '<p>For programs: <a href="openapi.json">openapi.json</a>.',
        _contents(operations),
        *(_operation(document, method, path, operation, address) for method, path, operation in operations),
        _errors(),
    ]
    return "\n".join(parts)


def _operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def _contents(operations: list[tuple[str, str, Document]]) -> str:
    rows = [
        (
            f'<a href="#{operation["operationId"]}"><code>{method} {escape(path)}</code></a>',
            escape(operation["summary"]),
        )
        for method, path, operation in operations
    ]
    return _table((), [*rows, ('<a href="#errors">Errors</a>', "Codes, and what they mean")])


def _operation(document: Document, method: str, path: str, operation: Document, address: str) -> str:
    parts = [
        f'<h2 id="{operation["operationId"]}"><code>{method} {escape(path)}</code> {escape(operation["summary"])}</h2>',
        *(f"<p>{_prose(paragraph)}" for paragraph in operation.get("description", "").split("\n\n")),
        f"<pre>{escape(_curl(document, method, path, operation, address))}</pre>",
        _parameters(document, operation),
        _responses(document, operation),
    ]
    return "\n".join(parts)


def _curl(document: Document, method: str, path: str, operation: Document, address: str) -> str:
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(example(document, parameter["schema"])))
    command = "curl -s" if method == "GET" else f"curl -s -X {method}"
    if body := _body_schema(operation):
        shown = json.dumps(example(document, body))
        return f"{command} {address}{path} \\\n  -H 'Content-Type: application/json' \\\n  -d '{shown}'"
    return f"{command} {address}{path}"


def _parameters(document: Document, operation: Document) -> str:
    rows = [
        (_code(parameter["name"]), parameter["in"], _prose(parameter.get("description", "")))
        for parameter in operation.get("parameters", [])
    ]
    if body := _body_schema(operation):
        schema = resolved(document, body)
        needed = schema.get("required", [])
        rows += [
            (_code(name), "body, required" if name in needed else "body", _prose(_description(document, field)))
            for name, field in schema["properties"].items()
        ]
    return _table(("Name", "Where", "Meaning"), rows) if rows else ""


def _responses(document: Document, operation: Document) -> str:
    rows = []
    shown = ""
    for status, response in operation["responses"].items():
        content = response.get("content", {})
        if schema := content.get("application/json", {}).get("schema"):
            shown = shown or f"<pre>{escape(json.dumps(example(document, schema), indent=2))}</pre>"
        codes = [f'<a href="#{code}">{code}</a>' for media in content.values() for code in media.get("examples", {})]
        rows.append((status, ", ".join(codes) or escape(response["description"])))
    return shown + _table(("Status", "Meaning"), rows)


def _errors() -> str:
    rows = [
        (
            f'<span id="{code}">{_code(code)}</span>',
            str(STATUS[kind]),
            "yes" if kind.retriable else "",
            escape(kind.title),
        )
        for code, kind in by_code().items()
    ]
    return '<h2 id="errors">Errors</h2>' + _table(("Code", "Status", "Retriable", "Meaning"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = ["".join(f"<td>{cell}" for cell in row) for row in rows]
    headings = "".join(f"<th>{cell}" for cell in head)
    return "<table>" + "\n".join(f"<tr>{line}" for line in [headings, *lines] if line) + "</table>"


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _prose(text: str) -> str:
    """Text in which `code` is marked with backticks."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if at % 2 else piece for at, piece in enumerate(pieces))


def _description(document: Document, schema: Document) -> str:
    return str(schema.get("description") or resolved(document, schema).get("description", ""))


def _body_schema(operation: Document) -> Document | None:
    schema: Document | None = (
        operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    )
    return schema
