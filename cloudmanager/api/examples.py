"""Reads the OpenAPI document: follows its references, and makes example values from its schemas."""

from typing import Any

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
