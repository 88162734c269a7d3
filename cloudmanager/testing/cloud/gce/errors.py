"""How Compute Engine says no: the body of a refused request."""

from cloudmanager.testing.cloud.emulator import Refusal
from cloudmanager.testing.cloud.wire import Response


def error(status: int, reason: str, message: str, domain: str = "global", retry_after: float | None = None) -> Response:
    """The JSON form that all of Google's older APIs share."""
    entry = {"message": message, "domain": domain, "reason": reason}
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    return Response.of_json(status, {"error": {"code": status, "message": message, "errors": [entry]}}, headers)


def refusal(status: int, reason: str, message: str) -> Refusal:
    return Refusal(error(status, reason, message))


def not_found(path: str) -> Refusal:
    return refusal(404, "notFound", f"The resource '{path}' was not found")


def invalid(field: str, value: str, why: str) -> Refusal:
    return refusal(400, "invalid", f"Invalid value for field '{field}': '{value}'. {why}")


def in_use(disk: str, user: str) -> Refusal:
    return refusal(400, "resourceInUseByAnotherResource", in_use_message(disk, user))


def in_use_message(disk: str, user: str) -> str:
    return f"The disk resource '{disk}' is already being used by '{user}'"


def not_ready(path: str) -> Refusal:
    return refusal(400, "resourceNotReady", f"The resource '{path}' is not ready")


def exists(path: str) -> Refusal:
    return refusal(409, "alreadyExists", f"The resource '{path}' already exists")


def unauthenticated() -> Refusal:
    return Refusal(error(401, "authError", "Invalid Credentials"))


THROTTLES = {
    "": (403, "rateLimitExceeded", "Rate Limit Exceeded", "usageLimits"),
    "pending": (403, "rateLimitExceeded", "Too many pending operations on a resource.", "usageLimits"),
    "429": (429, "rateLimitExceeded", "Quota exceeded for quota metric 'Queries'", "usageLimits"),
    "user": (403, "userRateLimitExceeded", "User Rate Limit Exceeded", "usageLimits"),
}
"""The forms in which it asks for fewer requests, by `Fault.form`."""

STATUS_OF_REASON = {
    "forbidden": 403,
    "quotaExceeded": 403,
    "notFound": 404,
    "backendError": 503,
    "internalError": 500,
    "conditionNotMet": 412,
}
