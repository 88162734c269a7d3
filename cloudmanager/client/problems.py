"""Answers that are errors, as exceptions."""

from cloudmanager.client.errors import BY_CODE, ClientError, ExportOver, ServiceError, UnexpectedAnswer
from cloudmanager.client.exchange import Reply
from cloudmanager.client.model import Export, ExportState, Problem
from cloudmanager.client.reading import parse

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
