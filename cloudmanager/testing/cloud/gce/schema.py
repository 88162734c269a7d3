"""Checks requests against Google's discovery document of the Compute Engine API, as google-api-python-client ships it.

https://developers.google.com/discovery/v1/reference/apis
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from cloudmanager.core.errors import MissingExtra

_ROOT = "/compute/v1/"
_SYSTEM_PARAMETERS = frozenset({"$alt"})
"""What the client libraries add and the discovery document does not list."""
_JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
}


@dataclass(frozen=True)
class Mistake:
    """What is wrong with a request, in the words of Google's API."""

    reason: str
    message: str


@dataclass(frozen=True)
class Match:
    """A request's method, with the parameters that its path carries."""

    method: "Method"
    parameters: Mapping[str, str]


@dataclass(frozen=True)
class Method:
    """A method of the API."""

    id: str
    """`compute.instances.attachDisk`"""
    verb: str
    pattern: re.Pattern[str]
    parameters: Mapping[str, Mapping[str, Any]]
    body: str | None
    """Name of the schema of the request's body."""

    @property
    def name(self) -> str:
        """`instances.attachDisk`"""
        return self.id.removeprefix("compute.")

    @property
    def mutates(self) -> bool:
        return self.verb != "GET" and not self.id.endswith(".wait")


class Schema:
    """The discovery document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._schemas = document["schemas"]
        self._common = frozenset(document["parameters"]) | _SYSTEM_PARAMETERS
        self._methods = tuple(_methods(document["resources"]))

    def match(self, verb: str, path: str) -> Match | None:
        """The method that a request calls."""
        rest = path.removeprefix(_ROOT)
        for method in self._methods:
            if method.verb == verb and (found := method.pattern.fullmatch(rest)):
                return Match(method, found.groupdict())
        return None

    def mistake(self, match: Match, query: Mapping[str, str], body: object) -> Mistake | None:
        """The first thing that is wrong with the parameters or the body."""
        return next(self._mistakes(match, query, body), None)

    def _mistakes(self, match: Match, query: Mapping[str, str], body: object) -> Iterator[Mistake]:
        method = match.method
        yield from self._parameter_mistakes(method, {**query, **match.parameters})
        if method.body is not None:
            yield from self._body_mistakes(method, body)

    def _parameter_mistakes(self, method: Method, given: Mapping[str, str]) -> Iterator[Mistake]:
        for name in given:
            if name not in method.parameters and name not in self._common:
                yield Mistake(
                    "badRequest",
                    f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query parameter. '
                    f"Field '{name}' could not be found in request message.",
                )
        for name, declared in method.parameters.items():
            if name in given:
                yield from _text_mistakes(declared, name, given[name])
            elif declared.get("required"):
                yield Mistake("required", f"Required parameter: {name}")

    def _body_mistakes(self, method: Method, body: object) -> Iterator[Mistake]:
        if not isinstance(body, dict):
            yield Mistake("parseError", "Parse Error")
            return
        yield from self._object_mistakes(self._schemas[method.body], "resource", body)
        for name, declared in self._schemas[method.body]["properties"].items():
            if method.id in declared.get("annotations", {}).get("required", ()) and name not in body:
                yield Mistake("required", f"Required field 'resource.{name}' not specified")

    def _object_mistakes(self, schema: Mapping[str, Any], where: str, value: Mapping[str, Any]) -> Iterator[Mistake]:
        properties = schema.get("properties", {})
        rest = schema.get("additionalProperties")
        for name, item in value.items():
            declared = properties.get(name, rest)
            if declared is None:
                yield Mistake(
                    "badRequest",
                    f"Invalid JSON payload received. Unknown name \"{name}\" at '{where}': Cannot find field.",
                )
            elif not declared.get("readOnly"):
                yield from self._value_mistakes(declared, f"{where}.{name}", item)

    def _value_mistakes(self, declared: Mapping[str, Any], where: str, value: object) -> Iterator[Mistake]:
        if "$ref" in declared:
            declared = self._schemas[declared["$ref"]]
        kind = declared.get("type", "object")
        if kind == "string" and declared.get("format") in ("int64", "uint64") and type(value) is int:
            value = str(value)
        if not isinstance(value, _JSON_TYPES.get(kind, (object,))) or (kind == "integer" and isinstance(value, bool)):
            yield Mistake(
                "invalid", f"Invalid value for field '{where}': '{value}'. A value of type {kind} is expected."
            )
        elif isinstance(value, dict):
            yield from self._object_mistakes(declared, where, value)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                yield from self._value_mistakes(declared["items"], f"{where}[{index}]", item)
        else:
            yield from _text_mistakes(declared, where, str(value))


def _text_mistakes(declared: Mapping[str, Any], where: str, text: str) -> Iterator[Mistake]:
    pattern, enum = declared.get("pattern"), declared.get("enum")
    if pattern and not re.fullmatch(pattern, text):
        yield Mistake(
            "invalid",
            f"Invalid value for field '{where}': '{text}'. Must be a match of regex '{pattern}'",
        )
    if enum and text not in enum:
        yield Mistake("invalid", f"Invalid value for field '{where}': '{text}'. Must be one of: {', '.join(enum)}.")
    if declared.get("format") in ("int32", "uint32", "int64", "uint64") and not re.fullmatch(r"-?\d+", text):
        yield Mistake("invalid", f"Invalid value for field '{where}': '{text}'. A number is expected.")
    elif "minimum" in declared and int(text) < int(declared["minimum"]):
        yield Mistake("invalid", f"Invalid value for field '{where}': '{text}'. It is too small.")
    elif "maximum" in declared and int(text) > int(declared["maximum"]):
        yield Mistake("invalid", f"Invalid value for field '{where}': '{text}'. It is too large.")
    if declared.get("type") == "boolean" and text.lower() not in ("true", "false"):
        yield Mistake("invalid", f"Invalid value for field '{where}': '{text}'. A boolean is expected.")


def _methods(resources_: Mapping[str, Any]) -> Iterator[Method]:
    for resource in resources_.values():
        for method in resource.get("methods", {}).values():
            yield Method(
                id=method["id"],
                verb=method["httpMethod"],
                pattern=re.compile(re.sub(r"\{\+?(\w+)\}", r"(?P<\1>[^/]+)", method["path"])),
                parameters=method.get("parameters", {}),
                body=method.get("request", {}).get("$ref"),
            )
        yield from _methods(resource.get("resources", {}))


@cache
def compute_v1() -> Schema:
    """Raises MissingExtra without google-api-python-client."""
    try:
        documents = resources.files("googleapiclient.discovery_cache").joinpath("documents")
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "The emulated GCE checks requests against Google's own description of the API: "
            "pip install google-api-python-client."
        ) from error
    return Schema(json.loads(documents.joinpath("compute.v1.json").read_bytes()))
