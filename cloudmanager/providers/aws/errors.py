"""EC2's errors as ours: each code has its class, and stays with the error."""

import os
import re
from collections.abc import Mapping

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
)
from botocore.utils import get_environ_proxies

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
    WrongZone,
)
from cloudmanager.providers._errors import retry_after

_CLASSES: Mapping[str, type[CloudManagerError]] = {
    "InvalidVolume.NotFound": DiskNotFound,
    "InvalidVolumeID.Malformed": DiskNotFound,
    "InvalidSnapshot.NotFound": DiskNotFound,
    "VolumeInUse": DiskInUse,
    "AttachmentLimitExceeded": AttachLimit,
    "InvalidVolume.ZoneMismatch": WrongZone,
    "UnauthorizedOperation": AccessDenied,
    "AuthFailure": AccessDenied,
    "AccessDenied": AccessDenied,
    "AccessDeniedException": AccessDenied,
    "Blocked": AccessDenied,
    "ExpiredToken": AccessDenied,
    "IncompleteSignature": AccessDenied,
    "InvalidClientTokenId": AccessDenied,
    "MissingAuthenticationToken": AccessDenied,
    "OptInRequired": AccessDenied,
    "PendingVerification": AccessDenied,
    "RequestExpired": AccessDenied,
    "SignatureDoesNotMatch": AccessDenied,
    "UnauthorizedAccess": AccessDenied,
    "UnrecognizedClientException": AccessDenied,
    "RequestLimitExceeded": Throttled,
    "EC2ThrottledException": Throttled,
    "RequestThrottled": Throttled,
    "RequestThrottledException": Throttled,
    "SnapshotCreationPerVolumeRateExceeded": Throttled,
    "SlowDown": Throttled,
    "Throttling": Throttled,
    "ThrottlingException": Throttled,
    "ThrottledException": Throttled,
    "TooManyRequestsException": Throttled,
    "IncorrectState": CloudUnavailable,
    "IncorrectInstanceState": CloudUnavailable,
    "InsufficientVolumeCapacity": CloudUnavailable,
    "InternalError": CloudUnavailable,
    "InternalFailure": CloudUnavailable,
    "PriorRequestNotComplete": CloudUnavailable,
    "RequestTimeout": CloudUnavailable,
    "ServerInternal": CloudUnavailable,
    "ServiceUnavailable": CloudUnavailable,
    "Unavailable": CloudUnavailable,
}
_KEY_CODE = "CustomerKeyHasBeenRevoked"
_KEY = re.compile(r"\bKMS\b|\bkms:|\bmaster key\b", re.IGNORECASE)
"""In the code or the message of a refusal: the key that a volume is encrypted with is disabled, deleted or denied."""
_KEY_ADVICE = (
    "The KMS key of the volume cannot be used: it must be enabled, and its policy and the role must allow what "
    "docs/providers/aws.md lists for a key of your own (cloudmanager-key.json)."
)
_ADVICE: Mapping[type[CloudManagerError], str] = {
    AccessDenied: "Check the credentials and the IAM policy: docs/providers/aws.md has the smallest one that will do.",
    AttachLimit: "Detach a volume that is not needed, or use a larger instance type.",
    WrongZone: "Make a snapshot of it, and from that a volume in this machine's zone.",
}
_MISSING_CREDENTIALS = (
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
)
_METADATA = "http://169.254.169.254"
_LONGEST_MESSAGE = 300


def translated(error: ClientError | BotoCoreError, action: str) -> CloudManagerError:
    """The error of the domain. `action` is EC2's name of what was asked."""
    if isinstance(error, ClientError):
        return _of_answer(error, action)
    if isinstance(error, _MISSING_CREDENTIALS):
        return AccessDenied(
            f"boto3 found no credentials for {action} ({type(error).__name__}): give the instance a role, or set "
            f"profile. docs/providers/aws.md has the policy that it needs. {_proxied()}".strip(),
            cloud_code=type(error).__name__,
        )
    if isinstance(error, (ConnectionError, HTTPClientError)):
        return CloudUnavailable(f"EC2 gave no answer to {action} ({type(error).__name__}). {_proxied()}".strip())
    return ConfigurationError(f"boto3 cannot ask EC2 for {action}: {type(error).__name__}.")


def _proxied() -> str:
    """boto3 asks for the role's credentials through a proxy if there is one: the metadata service is not there."""
    if "http" not in get_environ_proxies(os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", _METADATA)):
        return ""
    return "boto3 asks the metadata service through a proxy: set NO_PROXY=169.254.169.254."


def is_unanswered(error: CloudManagerError) -> bool:
    """A request of which it is not known whether EC2 has carried it out; it has, and said Unavailable, in one case
    (aws-sdk-java#1623).
    """
    cause = error.__cause__
    if isinstance(cause, ClientError):
        return _status(cause) >= 500
    return isinstance(cause, (ConnectionError, HTTPClientError))


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _of_answer(error: ClientError, action: str) -> CloudManagerError:
    code, message = code_of(error), _sentence(error)
    is_key = _is_about_key(code, message)
    kind = AccessDenied if is_key else _class_of(code, message, _status(error))
    advice = _KEY_ADVICE if is_key else _ADVICE.get(kind, "")
    return kind(
        f"EC2 answered {action} with {code}: {message} {advice}".strip(),
        cloud_code=code,
        retry_after=retry_after(error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}))
        if kind in (Throttled, CloudUnavailable)
        else None,
    )


def _is_about_key(code: str, message: str) -> bool:
    """Not while EC2 only wants to be asked again."""
    is_refusal = _CLASSES.get(code, AccessDenied) is AccessDenied
    return code == _KEY_CODE or (is_refusal and _KEY.search(f"{code} {message}") is not None)


def _class_of(code: str, message: str, status: int) -> type[CloudManagerError]:
    if code == "InvalidParameterValue" and "already in use" in message:
        return NameClash
    if code in _CLASSES:
        return _CLASSES[code]
    if status == 429:
        return Throttled
    return CloudUnavailable if status >= 500 else CloudError


def _sentence(error: ClientError) -> str:
    """EC2's message without the parts that help no reader: an encoded message, or the request that was signed."""
    message = str(error.response.get("Error", {}).get("Message", ""))
    plain = re.split(r"\s*Encoded authorization failure message:|\n", message)[0].strip()
    return plain if len(plain) <= _LONGEST_MESSAGE else f"{plain[:_LONGEST_MESSAGE]}…"


def _headers(error: ClientError) -> Mapping[str, str]:
    headers: Mapping[str, str] = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return headers


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
