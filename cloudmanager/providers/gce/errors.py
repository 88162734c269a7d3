"""What Google's errors mean here. Both forms are known: of a refused request, and of an operation that failed."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import google.api_core.exceptions as api
import google.auth.exceptions as auth
import requests
from google.cloud import compute_v1
from requests.utils import get_environ_proxies

from cloudmanager.core.errors import (
    AccessDenied,
    AttachLimit,
    CloudError,
    CloudManagerError,
    CloudUnavailable,
    ConfigurationError,
    DiskInUse,
    DiskNotFound,
    NameClash,
    Throttled,
    UnsupportedAccess,
    WrongZone,
)
from cloudmanager.providers._errors import retry_after

NOT_FOUND = "notFound"
_METADATA_HOST = "metadata.google.internal"
_METADATA_ADDRESS = "169.254.169.254"
_BY_CODE: dict[str, type[CloudManagerError]] = {
    NOT_FOUND: DiskNotFound,
    "RESOURCE_NOT_FOUND": DiskNotFound,
    "resourceInUseByAnotherResource": DiskInUse,
    "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE": DiskInUse,
    "quotaExceeded": AttachLimit,
    "QUOTA_EXCEEDED": AttachLimit,
    "limitExceeded": AttachLimit,
    "LIMIT_EXCEEDED": AttachLimit,
    "rateLimitExceeded": Throttled,
    "userRateLimitExceeded": Throttled,
    "RATE_LIMIT_EXCEEDED": Throttled,
    "RESOURCE_OPERATION_RATE_EXCEEDED": Throttled,
    "resourceNotReady": CloudUnavailable,
    "RESOURCE_NOT_READY": CloudUnavailable,
    "INTERNAL_ERROR": CloudUnavailable,
    "internalError": CloudUnavailable,
    "backendError": CloudUnavailable,
    "ZONE_RESOURCE_POOL_EXHAUSTED": CloudUnavailable,
    "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS": CloudUnavailable,
    "PERMISSIONS_ERROR": AccessDenied,
}
_BY_STATUS: dict[int, type[CloudManagerError]] = {
    401: AccessDenied,
    403: AccessDenied,
    404: DiskNotFound,
    408: CloudUnavailable,
    429: Throttled,
}
_BY_WORDS: tuple[tuple[re.Pattern[str], type[CloudManagerError]], ...] = (
    (re.compile(r"must be in the same (zone|region)", re.IGNORECASE), WrongZone),
    (re.compile(r"maximum .*disks count|maximum_persistent_disks", re.IGNORECASE), AttachLimit),
    (re.compile(r"/instances/[^/]+' was not found"), CloudError),
    (re.compile(r"device name .* already", re.IGNORECASE), NameClash),
)
"""Refusals that only Google's message distinguishes; its code for them is `invalid` or `UNSUPPORTED_OPERATION`."""
_READ_ONLY = re.compile(r"read[-_ ]?only", re.IGNORECASE)
"""In a refusal that has no code of its own: the disk cannot be attached in that mode."""
_ADVICE: dict[type[CloudManagerError], str] = {
    AccessDenied: "Grant the service account the role that docs/providers/gce.md lists.",
    AttachLimit: "Detach a disk that is not needed, use a larger machine type, or ask for more quota.",
    WrongZone: "Restore a snapshot of it here, or use a cloudmanager in the disk's zone.",
}


@contextmanager
def translated() -> Iterator[None]:
    """Around a call of the SDK: only errors of cloudmanager leave it."""
    try:
        yield
    except api.GoogleAPICallError as error:
        raise _of_call(error) from error
    except (auth.DefaultCredentialsError, auth.RefreshError, auth.TransportError) as error:
        raise _of_credentials(error) from error
    except requests.RequestException as error:
        raise _unreachable(error) from error


def _of_credentials(error: auth.GoogleAuthError) -> CloudManagerError:
    """Google's library asks the metadata server for a token, through a proxy if there is one: nobody answers there."""
    if proxy := _proxied_metadata():
        return ConfigurationError(
            f"Google's library asks the metadata server for credentials through the proxy of {proxy}, where it is not: "
            f"set NO_PROXY={_METADATA_HOST},{_METADATA_ADDRESS}, and what else must not go through it "
            f"({type(error).__name__}).",
            retriable=isinstance(error, auth.TransportError),
        )
    if isinstance(error, auth.DefaultCredentialsError):
        return ConfigurationError(
            "Google's Application Default Credentials were not found: give this machine a service account, or set "
            "GOOGLE_APPLICATION_CREDENTIALS."
        )
    if isinstance(error, auth.RefreshError):
        return AccessDenied(
            "Google gave no access token for this machine's credentials: check the service account.",
            cloud_code="RefreshError",
            retriable=bool(error.retryable),
        )
    return _unreachable(error)


def _unreachable(error: Exception) -> CloudUnavailable:
    name = type(error).__name__
    return CloudUnavailable(f"Compute Engine could not be reached ({name}).", cloud_code=name)


def _proxied_metadata() -> str:
    """The variable that sends requests for the metadata server to a proxy; empty where none does.

    With a key file or other credentials the metadata server is not asked.
    """
    if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        return ""
    hosts = [os.environ.get("GCE_METADATA_HOST", _METADATA_HOST), os.environ.get("GCE_METADATA_IP", _METADATA_ADDRESS)]
    if not any("http" in get_environ_proxies(f"http://{host}/") for host in hosts):
        return ""
    return next((name for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY") if os.environ.get(name)), "")


def of_operation(operation: compute_v1.Operation) -> CloudManagerError | None:
    """The error that an operation ended with."""
    if not operation.error.errors:
        return None
    first = operation.error.errors[0]
    return _error(first.code, operation.http_error_status_code, first.message, None)


def _of_call(error: api.GoogleAPICallError) -> CloudManagerError:
    first = next((entry for entry in error.errors if isinstance(entry, dict)), {})
    code = str(first.get("reason") or error.code)
    return _error(
        code,
        int(error.code or 0),
        str(first.get("message") or error.message),
        retry_after(getattr(error.response, "headers", None) or {}),
    )


def _error(code: str, status: int, message: str, pause: float | None) -> CloudManagerError:
    kind = _kind(code, status, message)
    detail = f"Compute Engine: {message.rstrip('.')}. {_ADVICE.get(kind, '')}".strip()
    return kind(detail, cloud_code=code, retry_after=pause)


def _kind(code: str, status: int, message: str) -> type[CloudManagerError]:
    by_words = next((kind for pattern, kind in _BY_WORDS if pattern.search(message)), None)
    if by_words is not None:
        return by_words
    by_code = _BY_CODE.get(code) or _BY_STATUS.get(status)
    if by_code is not None:
        return by_code
    if status >= 500:
        return CloudUnavailable
    return UnsupportedAccess if _READ_ONLY.search(message) else CloudError
