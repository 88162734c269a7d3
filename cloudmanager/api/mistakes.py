"""FastAPI's validation errors as typed errors that say what to do.

The offending values are left out: one may be a secret.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_type_hints
from urllib.parse import quote

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from cloudmanager.api.errors import InvalidFields, MalformedRequest, Mistake, UnsupportedMediaType
from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.settings import near_miss

MAX_MISTAKES = 10
"""Enough for a person; a body of a thousand wrong fields does not make a long answer."""


def explain(request: Request, error: RequestValidationError) -> CloudManagerError:
    """What is wrong with a request that FastAPI could not make sense of."""
    details = error.errors()
    if details[0]["type"] == "json_invalid":
        reason = details[0]["ctx"]["error"]
        return MalformedRequest(f"The body is not JSON: {reason} (at character {details[0]['loc'][1]}).")
    if isinstance(error.body, bytes):
        return UnsupportedMediaType("Send the body as JSON, with `Content-Type: application/json`.")
    known = list(_fields_of(request.scope["endpoint"]))
    return InvalidFields(tuple(_mistake(detail, known) for detail in details[:MAX_MISTAKES]))


def _mistake(detail: Mapping[str, Any], known: Iterable[str]) -> Mistake:
    place, *path = detail["loc"]
    if place == "body":
        pointer = "".join(f"/{_escaped(step)}" for step in path)
        return Mistake(_sentence(detail, known), pointer=f"#{pointer}")
    return Mistake(_sentence(detail, known), parameter=str(path[0]) if path else None)


def _sentence(detail: Mapping[str, Any], known: Iterable[str]) -> str:
    match detail["type"]:
        case "extra_forbidden":
            return f"There is no such field{near_miss(str(detail['loc'][-1]), known) or '.'}"
        case "missing":
            return "This is required."
        case _:
            return f"{detail['msg'].removeprefix('Value error, ')}."


def _escaped(step: object) -> str:
    """A step of a JSON pointer in a URI fragment (RFC 6901, section 6)."""
    return quote(str(step).replace("~", "~0").replace("/", "~1")[:80], errors="replace")


def _fields_of(endpoint: Any) -> Sequence[str]:
    """What a route's body and query may contain."""
    models = [hint for hint in get_type_hints(endpoint).values() if inspect.isclass(hint)]
    return [name for model in models if issubclass(model, BaseModel) for name in model.model_fields]
