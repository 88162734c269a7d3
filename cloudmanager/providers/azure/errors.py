"""Azure's errors, as cloudmanager's.

An error may come as the answer to a request, or as the outcome of an operation that was accepted: the HTTP status is
200 then, so the code decides before the status does.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)

from cloudmanager.core.errors import (
    AccessDenied,
    AttachLimit,
    CloudError,
    CloudUnavailable,
    DiskInUse,
    DiskNotFound,
    NameClash,
    Throttled,
    WrongZone,
)
from cloudmanager.core.errors import CloudManagerError as Ours
from cloudmanager.providers._errors import retry_after as header_pause


class MachineGone(Exception):
    """The virtual machine does not exist: never leaves the provider."""


@dataclass(frozen=True)
class Rule:
    """Matches what has one of the codes or statuses, and the phrase, where these are given."""

    error: type[Ours]
    codes: frozenset[str] = frozenset()
    statuses: frozenset[int] = frozenset()
    phrase: str = ""

    def matches(self, status: int, code: str, message: str) -> bool:
        is_any = not self.codes and not self.statuses
        return (
            is_any or code.casefold() in self.codes or status in self.statuses
        ) and self.phrase in message.casefold()


def _codes(*codes: str) -> frozenset[str]:
    return frozenset(code.casefold() for code in codes)


_RULES = (
    Rule(Throttled, _codes("TooManyRequests", "SubscriptionRequestsThrottled"), frozenset({429})),
    Rule(NameClash, _codes("InvalidParameter"), phrase="a disk at lun"),
    Rule(AttachLimit, phrase="maximum number of data disks"),
    Rule(WrongZone, phrase="not in the same zone"),
    Rule(WrongZone, phrase="because it is not in zone"),
    Rule(DiskInUse, _codes("ConflictingUserInput"), phrase="already owned by vm"),
    Rule(DiskInUse, _codes("ConflictingUserInput"), phrase="already attached to vm"),
    Rule(
        CloudUnavailable,
        _codes(
            "AttachDiskWhileBeingDetached",
            "OperationPreempted",
            "Conflict",
            "RetryableError",
            "InternalExecutionError",
            "InternalOperationError",
            "InternalServerError",
            "ServerTimeout",
            "ServiceUnavailable",
            "OperationTimedOut",
        ),
        frozenset({408, 500, 502, 503, 504}),
    ),
    Rule(DiskNotFound, _codes("NotFound", "ResourceNotFound", "ResourceGroupNotFound"), frozenset({404})),
    Rule(
        AccessDenied,
        _codes("AuthorizationFailed", "LinkedAuthorizationFailed", "AuthenticationFailed"),
        frozenset({401, 403}),
    ),
)

_MACHINE = re.compile(r"VM '?(?P<id>/subscriptions/[^\s']+)", re.IGNORECASE)


def translate(error: AzureError) -> Ours:
    """Keeps Azure's code, its message and its Retry-After."""
    if isinstance(error, HttpResponseError) and error.response is not None:
        return _of_answer(error)
    if isinstance(error, ClientAuthenticationError):
        return AccessDenied(_no_credential(error), cloud_code=type(error).__name__)
    if isinstance(error, ServiceRequestError | ServiceResponseError):
        return CloudUnavailable(
            f"Azure could not be reached, or the connection broke ({type(error).__name__}).",
            cloud_code=type(error).__name__,
        )
    return CloudError(f"The Azure SDK failed: {error.message}", cloud_code=type(error).__name__)


def is_unanswered(error: Ours) -> bool:
    """A request of which it is not known whether Azure has carried it out."""
    cause = error.__cause__
    if isinstance(cause, HttpResponseError):
        return (cause.status_code or 0) >= 500
    return isinstance(cause, ServiceRequestError | ServiceResponseError)


def is_missing_machine(error: HttpResponseError) -> bool:
    """By what Azure names: a missing disk has the same status."""
    if error.status_code != 404:
        return False
    code, message = _code(error), _message(error)
    return code == "ResourceGroupNotFound" or (code == "ResourceNotFound" and "/virtualmachines/" in message.casefold())


def _of_answer(error: HttpResponseError) -> Ours:
    status, code, message = error.status_code or 0, _code(error), _message(error)
    kind = next((rule.error for rule in _RULES if rule.matches(status, code, message)), CloudError)
    headers: Mapping[str, str] = getattr(error.response, "headers", {})
    holder = _holder(message) if kind is DiskInUse else None
    return kind(
        f"Azure answers {code or status}: {message or error.reason}",
        cloud_code=code or str(status),
        retry_after=retry_after(headers),
        retriable=True if kind is AttachLimit else None,  # until another disk is detached
        holder=holder,
    )


def _code(error: HttpResponseError) -> str:
    return (error.error.code or "") if error.error else ""


def _message(error: HttpResponseError) -> str:
    return (error.error.message or "") if error.error else ""


def _holder(message: str) -> str | None:
    """The machine that has the disk: the last one that the sentence names."""
    named = [match["id"].rstrip(".").rpartition("/")[2] for match in _MACHINE.finditer(message)]
    return named[-1] if named else None


def _no_credential(error: ClientAuthenticationError) -> str:
    """The first line: those after it explain each credential that was tried."""
    reason = str(error.message).partition("\n")[0].strip()
    return f"No credential for Azure was found: {reason} See docs/providers/azure.md."


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, of any of Azure's three headers."""
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        if (text := headers.get(name, "")).isdecimal():
            return int(text) / 1000
    return header_pause(headers)
