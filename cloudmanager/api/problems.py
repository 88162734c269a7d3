"""Errors as RFC 9457 problem+json. The only place where an error meets an HTTP status."""

import inspect
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast, get_type_hints
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from cloudmanager.api import answers
from cloudmanager.api import errors as http
from cloudmanager.api.errors import InvalidFields, MalformedRequest, Mistake, UnsupportedMediaType
from cloudmanager.core import errors as core
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
    part, *path = detail["loc"]
    if part == "body":
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


MEDIA_TYPE = "application/problem+json"
_UNREADABLE = "The body is not JSON in UTF-8, or it is nested too deeply, or it has a number of thousands of digits."
log = logging.getLogger(__name__)

STATUS: Mapping[type[CloudManagerError], int] = {
    CloudManagerError: 500,
    # The request. 400 where it cannot be read, 422 where what it says cannot be done.
    core.InvalidRequest: 422,
    core.InvalidDiskId: 422,
    core.AmbiguousDisk: 422,
    core.UnsupportedAccess: 422,
    core.IdempotencyMismatch: 422,
    core.InvalidContent: 422,
    http.InvalidFields: 422,
    http.MalformedRequest: 400,
    http.MethodNotAllowed: 405,
    http.RequestTooLarge: 413,
    http.UnsupportedMediaType: 415,
    core.NotFound: 404,
    core.ProviderNotFound: 404,
    core.NodeNotFound: 404,
    core.DiskNotFound: 404,
    core.ExportNotFound: 404,
    http.RouteNotFound: 404,
    # The caller.
    http.Unauthorized: 401,
    http.OriginRefused: 403,
    http.HostRefused: 421,
    core.Refused: 403,
    # Maintenance actions, and the end of the service.
    core.ProviderPaused: 409,
    core.NodeDraining: 409,
    core.NodeDisplaced: 503,
    core.ShuttingDown: 503,
    # Other claims.
    core.Conflict: 409,
    core.AccessConflict: 409,
    core.DiskInUse: 409,
    core.ForeignAttachment: 409,
    core.ExportNotReady: 409,
    core.ExportOver: 409,
    # The disk's bytes.
    core.ImageError: 422,
    core.CorruptImage: 422,
    core.UnsafeImage: 422,
    core.UnreasonableImage: 422,
    core.NotADisk: 422,
    core.EmptyImage: 422,
    # The cloud: 502 for what it answered, 503 where another time may do, 422 where this request never will.
    core.CloudError: 502,
    core.AccessDenied: 502,
    core.AttachLimit: 503,
    core.WrongZone: 422,
    core.NameClash: 503,
    core.Throttled: 503,
    core.CloudUnavailable: 503,
    core.ProviderFailure: 502,
    # This machine.
    core.DeviceError: 500,
    core.DeviceNotReady: 503,
    core.DeviceMismatch: 500,
    core.DiskReplaced: 410,
    core.ServerError: 500,
    core.ServerFailed: 500,
    core.SizeMismatch: 500,
    core.PortsExhausted: 503,
    core.TransferUnavailable: 503,
    core.TransferFailed: 500,
    core.ResourcesExhausted: 503,
    core.StoreUnavailable: 503,
    core.StoreFull: 503,
    core.StoreReadOnly: 503,
    core.StoreLocked: 503,
    core.StoreDamaged: 503,
    core.SetupError: 500,
    core.ConfigurationError: 500,
    core.PluginError: 500,
    core.MissingExtra: 500,
    core.UnsupportedStore: 500,
    http.InternalError: 500,
}


def status_of(error_type: type[CloudManagerError]) -> int:
    """A plugin's own error class has the status of the nearest one that it derives from."""
    return next(STATUS[ancestor] for ancestor in error_type.__mro__ if ancestor in STATUS)


def by_code() -> dict[str, type[CloudManagerError]]:
    """The errors that a client can meet, sorted by their code."""
    kinds = (kind for kind in STATUS if kind not in (CloudManagerError, http.InvalidFields))
    return {kind.code: kind for kind in sorted(kinds, key=lambda kind: kind.code)}


def problem(error: CloudManagerError, headers: Mapping[str, str] | None = None) -> Response:
    """The answer that says what happened and what to do."""
    status = status_of(type(error))
    content = answers.Problem.of(error, status).model_dump_json()
    return Response(content, status, {**_headers_of(error), **(headers or {})}, MEDIA_TYPE)


def _headers_of(error: CloudManagerError) -> dict[str, str]:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if isinstance(error, http.Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="cloudmanager"'
    return headers


def documented(*types: type[CloudManagerError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer with these errors, for the OpenAPI document."""
    by_status: dict[int, list[type[CloudManagerError]]] = {}
    for error_type in types:
        by_status.setdefault(status_of(error_type), []).append(error_type)
    return {status: _documented(status, by_status[status]) for status in sorted(by_status)}


def _documented(status: int, types: Iterable[type[CloudManagerError]]) -> dict[str, Any]:
    examples = {kind.code: {"summary": kind.title, "value": _example(kind, status)} for kind in types}
    description = ". ".join(str(example["summary"]) for example in examples.values())
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": f"{description}.", "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}}}


def _example(kind: type[CloudManagerError], status: int) -> dict[str, Any]:
    return answers.Problem.of(kind(f"{kind.title}."), status).model_dump(mode="json", exclude_defaults=True)


def install(app: FastAPI) -> None:
    """Makes every error that the app raises by design a problem."""
    app.add_exception_handler(CloudManagerError, _answer_known)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_framework)


async def _answer_known(request: Request, error: Exception) -> Response:
    known = cast(CloudManagerError, error)
    if status_of(type(known)) >= 500:
        log.warning("%s %s: %s (%s)", request.method, request.url.path, known.detail, known.code)
    return problem(known)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    return problem(explain(request, cast(RequestValidationError, error)))


async def _answer_framework(request: Request, error: Exception) -> Response:
    """What FastAPI and Starlette refuse by themselves."""
    refusal = cast(HTTPException, error)
    match refusal.status_code:
        case 404:
            return problem(http.RouteNotFound("There is no such route; /docs shows all of them."))
        case 405:
            allowed = ", ".join(_methods_of(request))
            return problem(http.MethodNotAllowed(f"This route has {allowed}."), {"Allow": allowed})
        case 413:
            return problem(http.RequestTooLarge(refusal.detail))
        case _:
            return problem(http.MalformedRequest(_UNREADABLE))


def _methods_of(request: Request) -> list[str]:
    """Of every route with this path: the framework names those of the first one only."""
    matching = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in matching for method in route.methods})
