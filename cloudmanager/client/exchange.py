"""What the client's logic asks of whatever sends requests: one request at a time, after a while.

A `Call` is a generator that yields a Step for each request and is sent the Reply, or has TransportFailed thrown into
it. It returns what the caller wanted. It does no input or output of its own, so that blocking and asynchronous clients
run the same logic.
"""

import json
import random
import time
import types
import warnings
from collections.abc import Generator, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from typing import TypeAlias, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from cloudmanager.client.errors import BY_CODE, ClientError, ExportOver, ServiceError, UnexpectedAnswer, Unreachable
from cloudmanager.client.model import Export, ExportState, Problem

Result = TypeVar("Result")

ANSWER_SECONDS = 120.0
"""How long one answer may take. The service asks a cloud before it answers some requests."""


@dataclass(frozen=True)
class Request:
    """One HTTP request."""

    method: str
    path: str
    """Percent-encoded."""
    query: tuple[tuple[str, str], ...] = ()
    body: Mapping[str, object] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_repeatable: bool = True
    """Sent twice, it has the effect of being sent once."""
    answer_seconds: float = ANSWER_SECONDS
    expected: frozenset[int] = frozenset({200, 201})


@dataclass(frozen=True)
class Reply:
    """An answer, and when its request was sent by this machine's boot clock."""

    status: int
    headers: Mapping[str, str]
    """Their names in lower case."""
    body: bytes = field(repr=False)
    sent_at: float
    proxy: str = ""
    """Through which it came: it may be the proxy's own."""


class TransportFailed(Exception):
    """No answer. `detail` is a clause that says what was tried and what happened."""

    def __init__(self, detail: str, *, was_sent: bool, is_unfit: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.was_sent = was_sent
        """The service may have got the request."""
        self.is_unfit = is_unfit
        """What came is no answer of a service: too long, or packed."""


@dataclass(frozen=True)
class ScheduledRequest:
    """Send the request after `after` seconds."""

    request: Request
    after: float = 0.0


Call: TypeAlias = Generator[ScheduledRequest, Reply, Result]


def now() -> float:
    """Seconds of the boot clock, which goes on while the machine sleeps: claims expire meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


RETRY_SECONDS = 60.0
"""Longer than a restart of the service takes."""
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0


def retry_budget(retry_seconds: float, patience_seconds: float | None) -> float:
    """`retry_seconds`, unless it was given by its deprecated name."""
    if patience_seconds is None:
        return retry_seconds
    warnings.warn("the keyword `patience_seconds` is called `retry_seconds` now", DeprecationWarning, stacklevel=3)
    return patience_seconds


def pauses() -> Iterator[float]:
    """Twice as long each time, with up to a half taken off, so that clients do not come back all at once."""
    longest = FIRST_PAUSE_SECONDS
    while True:
        yield longest * random.uniform(0.5, 1)  # noqa: S311 - spreads load, keeps no secret
        longest = min(2 * longest, LONGEST_PAUSE_SECONDS)


def with_retries(request: Request, retry_seconds: float, after: float = 0.0) -> Call[Reply]:
    """The first answer that is what the request expects. Raises ServiceError, Unreachable, UnexpectedAnswer.

    The last error is raised when the next attempt would begin later than `retry_seconds` from now.
    """
    give_up_at = now() + retry_seconds
    longer = pauses()
    while True:
        try:
            reply = yield ScheduledRequest(request, after)
        except TransportFailed as failure:
            error: ClientError = unreachable(failure)
            may_repeat = (request.is_repeatable or not failure.was_sent) and not failure.is_unfit
        else:
            if reply.status in request.expected and not is_problem(reply) and not is_foreign(reply):
                return reply
            error = error_of(reply)
            may_repeat = request.is_repeatable and isinstance(error, ServiceError) and error.retriable
        after = max(next(longer), asked_pause(error))
        if not may_repeat or now() + after > give_up_at:
            raise error


def unreachable(failure: TransportFailed) -> Unreachable | UnexpectedAnswer:
    if failure.is_unfit:
        return UnexpectedAnswer(f"{failure.detail}. Does the address lead to a cloudmanager?")
    return Unreachable(f"{failure.detail}. Is the service running, and is this its address?")


def asked_pause(error: ClientError | None) -> float:
    """Seconds that the service asks to wait."""
    return error.retry_after or 0.0 if isinstance(error, ServiceError) else 0.0


MEDIA_TYPE = "application/problem+json"
PASSING_STATUSES = frozenset({429, 502, 503, 504})
"""What a proxy answers while the service behind it is away."""


def is_problem(reply: Reply) -> bool:
    return _media_type(reply) == MEDIA_TYPE


def _media_type(reply: Reply) -> str:
    return reply.headers.get("content-type", "").partition(";")[0].strip()


def is_foreign(reply: Reply) -> bool:
    """Whether it came through a proxy and is no JSON: it is that one's own page."""
    return bool(reply.proxy) and not _media_type(reply).endswith("json")


def error_of(reply: Reply) -> ClientError:
    """What an answer says that is not a success."""
    if is_problem(reply):
        return _problem(reply)
    if reply.proxy:
        return _from_proxy(reply)
    if reply.status in PASSING_STATUSES:
        return ServiceError(
            f"HTTP {reply.status} without a reason, as from a proxy whose service is away. Try again later.",
            given_code=f"http_{reply.status}",
            status=reply.status,
            retriable=True,
            retry_after=_retry_after(reply),
        )
    if 300 <= reply.status < 400:
        target = reply.headers.get("location", "nowhere")
        return UnexpectedAnswer(f"The address leads on to {target}. If that is the service, use its address.")
    return UnexpectedAnswer(f"HTTP {reply.status} without a reason. Does the address lead to a cloudmanager?")


def _from_proxy(reply: Reply) -> ClientError:
    """What is no problem of the service's own came from the proxy, or from where that has led."""
    came = f"HTTP {reply.status} without a reason came through the proxy {reply.proxy}"
    advice = "If the service is to be reached without it, except its host in NO_PROXY."
    if reply.status not in PASSING_STATUSES:
        return UnexpectedAnswer(f"{came}. {advice}")
    return ServiceError(
        f"{came}. Try again later. {advice}",
        given_code=f"http_{reply.status}",
        status=reply.status,
        retriable=True,
        retry_after=_retry_after(reply),
    )


def error_of_export(export: Export) -> ServiceError:
    """Why an export is not live."""
    if export.error is None or export.state is not ExportState.FAILED:
        return ExportOver(f"Export {export.id} of {export.disk} is {export.state}. Ask for a new one.")
    return _service_error(export.error, status=0)


def _problem(reply: Reply) -> ClientError:
    content = parse(reply.body)
    if not isinstance(content, dict):
        return UnexpectedAnswer(f"HTTP {reply.status} with a problem that cannot be read.")
    problem = Problem(
        code=str(content.get("code") or f"http_{reply.status}"),
        title=str(content.get("title") or ""),
        detail=str(content.get("detail") or content.get("title") or f"HTTP {reply.status}"),
        retriable=content.get("retriable") is True,
        cloud_code=_text(content.get("cloud_code")),
        retry_after=_retry_after(reply),
    )
    mistakes = tuple(map(_mistake, content.get("errors") or ()))
    return _service_error(problem, reply.status, _text(content.get("holder")), mistakes)


def _service_error(
    problem: Problem, status: int, holder: str | None = None, mistakes: tuple[str, ...] = ()
) -> ServiceError:
    return BY_CODE.get(problem.code, ServiceError)(
        problem.detail,
        given_code=problem.code,
        title=problem.title,
        status=status,
        retriable=problem.retriable,
        cloud_code=problem.cloud_code,
        retry_after=problem.retry_after,
        holder=holder,
        mistakes=mistakes,
    )


def _mistake(mistake: object) -> str:
    if not isinstance(mistake, dict):
        return str(mistake)
    where = str(mistake.get("parameter") or mistake.get("pointer") or "").removeprefix("#/")
    return f"{where}: {mistake.get('detail')}" if where else str(mistake.get("detail"))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _retry_after(reply: Reply) -> float | None:
    """Seconds. The other form of the header, a date, is of no use where clocks differ."""
    given = reply.headers.get("retry-after", "")
    return float(given) if given.isdecimal() else None


Kind = TypeVar("Kind")


def parse(text: bytes) -> object:
    """Raises UnexpectedAnswer."""
    try:
        return cast(object, json.loads(text))
    except (ValueError, RecursionError):
        raise UnexpectedAnswer(
            f"The answer is not JSON: {text[:80]!r}. Does the address lead to a cloudmanager?"
        ) from None


def read(kind: type[Kind], value: object, where: str) -> Kind:
    """`value` as the dataclass `kind`. `where` names it in errors. Raises UnexpectedAnswer."""
    return cast(Kind, _as(kind, value, where))


def _as(kind: object, value: object, where: str) -> object:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else _as(_without_none(kind), value, where)
    if origin is tuple:
        return tuple(_as(get_args(kind)[0], item, f"{where}[{at}]") for at, item in enumerate(_is(list, value, where)))
    if origin is Mapping:
        texts = _is(dict, value, where).items()
        return {_is(str, key, where): _is(str, text, f"{where}.{key}") for key, text in texts}
    if not isinstance(kind, type):
        raise TypeError(f"{where}: {kind} cannot be read")
    return _as_class(kind, value, where)


def _as_class(kind: type, value: object, where: str) -> object:
    if is_dataclass(kind):
        return _as_record(kind, value, where)
    if issubclass(kind, Enum):
        return _converted(kind, value, where)
    if kind is datetime:
        return _converted(datetime.fromisoformat, _is(str, value, where), where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return _is(kind, value, where)


def _as_record(kind: type, value: object, where: str) -> object:
    given = _is(dict, value, where)
    missing = [name for name in _required(kind) if name not in given]
    if missing:
        raise UnexpectedAnswer(f"The answer lacks {where}.{missing[0]}. {_ADVICE}")
    fields_of_kind = {}
    for name, hint, as_they_are in _hints(kind):
        if name in given:
            content = given[name]
            is_right = type(content) in as_they_are  # most are, and a list has ten thousands of them
            fields_of_kind[name] = content if is_right else _as(hint, content, f"{where}.{name}")
    return kind(**fields_of_kind)


@cache
def _hints(kind: type) -> tuple[tuple[str, object, tuple[type, ...]], ...]:
    """Each field with its type, and the types whose values are taken as they are."""
    hints = get_type_hints(kind)
    return tuple((field.name, hints[field.name], _as_they_are(hints[field.name])) for field in fields(kind))


def _as_they_are(hint: object) -> tuple[type, ...]:
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return tuple(kind for kind in kinds if kind in (str, int, bool, float, type(None)))


@cache
def _required(kind: type) -> tuple[str, ...]:
    """A field with a default is one that older services do not have."""
    return tuple(f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING)


def _without_none(kind: object) -> object:
    (only,) = (each for each in get_args(kind) if each is not type(None))
    return cast(object, only)


def _is(kind: type[Kind], value: object, where: str) -> Kind:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UnexpectedAnswer(f"{where} of the answer is {_shown(value)}, not of type {kind.__name__}. {_ADVICE}")
    return value


def _converted(convert: object, value: object, where: str) -> object:
    try:
        return convert(value)  # type: ignore[operator] # an enum or fromisoformat: both take one value
    except ValueError:
        raise UnexpectedAnswer(f"{where} of the answer is {_shown(value)}: that is not known here. {_ADVICE}") from None


def _shown(value: object) -> str:
    """Its kind where it is large."""
    is_short = isinstance(value, str | int | float | None) and len(str(value)) < 40
    return ascii(value) if is_short else type(value).__name__


_ADVICE = "The service may be older or newer than this client; install the same version of both."
