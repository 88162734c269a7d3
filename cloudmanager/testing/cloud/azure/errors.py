"""What Azure answers when it refuses: status, code and sentence.

Sentences marked [R] were read in recorded replies and logs; the others are after the documentation or from memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from cloudmanager.testing.cloud.azure.resource_id import ResourceId


@dataclass
class ArmError(Exception):
    """A refusal, as a response of its own or as the error of a failed operation."""

    status: int
    code: str
    message: str
    target: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def node(self) -> dict[str, str]:
        """The error object of the wire."""
        body = {"code": self.code, "message": self.message}
        return {**body, "target": self.target} if self.target else body


def unauthenticated(code: str, message: str) -> ArmError:
    challenge = 'Bearer authorization_uri="https://login.microsoftonline.com/common", error="invalid_token"'
    return ArmError(401, code, message, headers={"WWW-Authenticate": challenge})


def no_token() -> ArmError:
    return unauthenticated("AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.")


def bad_token() -> ArmError:
    return unauthenticated("InvalidAuthenticationToken", "The access token is invalid.")


def forbidden(client: str, action: str, scope: str) -> ArmError:
    return ArmError(
        403,
        "AuthorizationFailed",
        f"The client '{client}' with object id '{client}' does not have authorization to perform action '{action}' "
        f"over scope '{scope}' or the scope is invalid. If access was recently granted, please refresh your "
        "credentials.",
    )


def forbidden_link(client: str, action: str, scope: str, linked_action: str, linked: str) -> ArmError:
    """[R]"""
    return ArmError(
        403,
        "LinkedAuthorizationFailed",
        f"The client '{client}' with object id '{client}' has permission to perform action '{action}' on scope "
        f"'{scope}'; however, it does not have permission to perform action(s) '{linked_action}' on the linked "
        f"scope(s) '{linked}' (respectively) or the linked scope(s) are invalid.",
    )


def no_api_version() -> ArmError:
    return ArmError(
        400,
        "MissingApiVersionParameter",
        "The api-version query parameter (?api-version=) is required for all requests.",
    )


def unknown_api_version(version: str, kind: str, known: Iterable[str]) -> ArmError:
    return ArmError(
        400,
        "InvalidResourceType",
        f"The resource type '{kind}' could not be found in the namespace 'Microsoft.Compute' for api version "
        f"'{version}'. The supported api-versions are '{','.join(known)}'.",
    )


def bad_subscription(subscription: str) -> ArmError:
    return ArmError(
        400, "InvalidSubscriptionId", f"The provided subscription identifier '{subscription}' is malformed or invalid."
    )


def no_subscription(subscription: str) -> ArmError:
    return ArmError(404, "SubscriptionNotFound", f"The subscription '{subscription}' could not be found.")


def no_group(group: str) -> ArmError:
    return ArmError(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.")


def no_resource(resource: ResourceId) -> ArmError:
    return ArmError(
        404,
        "ResourceNotFound",
        f"The Resource '{resource.type}/{resource.name}' under resource group '{resource.group}' was not found. For "
        "more details please go to https://aka.ms/ARMResourceNotFoundFix",
    )


def no_such_disk(disk: str) -> ArmError:
    """The disk that an attach names."""
    return ArmError(404, "NotFound", f"Disk {disk} is not found.", target=disk)


def no_route(path: str) -> ArmError:
    return ArmError(404, "InvalidResourceType", f"The request to '{path}' names no resource type that is served here.")


def no_operation(name: str) -> ArmError:
    return ArmError(404, "OperationNotFound", f"The operation '{name}' is not found or has expired.")


def bad_json(detail: str) -> ArmError:
    return ArmError(
        400, "InvalidRequestContent", f"The request content was invalid and could not be deserialized: '{detail}'."
    )


def unknown_member(member: str, model: str, path: str) -> ArmError:
    return ArmError(
        400, "BadRequest", f"Could not find member '{member}' on object of type '{model}'. Path '{path}'.", target=path
    )


def missing_member(path: str) -> ArmError:
    return ArmError(400, "InvalidParameter", f"Required parameter '{path}' is missing (null).", target=path)


def bad_value(value: object, path: str) -> ArmError:
    return ArmError(400, "InvalidParameter", f"The value '{value}' of parameter '{path}' is invalid.", target=path)


def bad_resource_name(name: str) -> ArmError:
    return ArmError(
        400,
        "InvalidParameter",
        f"The entity name '{name}' is invalid according to its validation rule: "
        r"^[^_\W][\w-._]{0,79}(?<![-.])$.",
        target="name",
    )


def lun_out_of_range(lun: int) -> ArmError:
    return ArmError(
        400,
        "InvalidParameter",
        f"The value '{lun}' of parameter 'dataDisk.lun' is out of range. The value must be between '0' and '63', "
        "inclusive.",
        target="dataDisk.lun",
    )


def lun_taken(lun: int) -> ArmError:
    """[R]"""
    return ArmError(400, "InvalidParameter", f"A disk at LUN {lun} already exists.", target="dataDisk.lun")


def too_many_disks(limit: int) -> ArmError:
    """[R]"""
    return ArmError(
        409,
        "OperationNotAllowed",
        f"The maximum number of data disks allowed to be attached to a VM of this size is {limit}.",
        target="dataDisks",
    )


def other_zone(disk: str, vm_zone: str, disk_zone: str) -> ArmError:
    """[R]"""
    return ArmError(
        400,
        "BadRequest",
        f"Disk {disk} cannot be attached to the VM because it is not in the same zone as the VM. VM zone: "
        f"'{vm_zone}'. Disk zone: '{disk_zone}'.",
    )


def not_in_zone(disk: str, vm_zone: str) -> ArmError:
    """[R] A disk without a zone, and a VM with one."""
    return ArmError(
        400, "BadRequest", f"Disk {disk} cannot be attached to the VM because it is not in zone '{vm_zone}'."
    )


def other_region(disk: str, disk_location: str, vm_location: str) -> ArmError:
    return ArmError(
        400,
        "BadRequest",
        f"Disk {disk} is in location '{disk_location}' and cannot be attached to a VM in location '{vm_location}'.",
    )


def owned(disk: str, vm: str) -> ArmError:
    """[R] Arrives as the error of a failed operation."""
    return ArmError(
        409,
        "ConflictingUserInput",
        f"Disk '{disk}' cannot be attached as the disk is already owned by VM '{vm}'.",
        target=disk,
    )


def being_attached(name: str, wanted_by: str, vm: str, disk: str) -> ArmError:
    """[R] Arrives at once, while the other attach runs."""
    return ArmError(
        409,
        "ConflictingUserInput",
        f"Cannot attach the disk {name} to VM {wanted_by} because it is already attached to VM {vm}. A disk can be "
        "attached to only one VM at a time.",
        target=disk,
    )


def being_detached(name: str, vm_name: str) -> ArmError:
    """[R]"""
    return ArmError(
        409,
        "AttachDiskWhileBeingDetached",
        f"Cannot attach data disk '{name}' to VM '{vm_name}' because the disk is currently being detached or the last "
        "detach operation failed. Please wait until the disk is completely detached and then try again or "
        "delete/detach the disk explicitly again.",
    )


def not_attached(disk: str, vm_name: str) -> ArmError:
    return ArmError(
        400, "InvalidParameter", f"Disk '{disk}' cannot be detached: it is not attached to VM '{vm_name}'.", target=disk
    )


def shared_disk_caching(name: str) -> ArmError:
    return ArmError(
        400,
        "InvalidParameter",
        f"Disk '{name}' has maxShares greater than 1; host caching must be 'None' for a shared disk.",
        target="dataDisk.caching",
    )


def busy() -> ArmError:
    """[R]"""
    return ArmError(
        409,
        "Conflict",
        "The request failed due to conflict with a concurrent request. To resolve it, please refer to "
        "https://aka.ms/activitylog to get more details on the conflicting requests.",
    )


def attached_disk(name: str, vm: str) -> ArmError:
    """[R] Deleting a disk that is in use."""
    return ArmError(409, "OperationNotAllowed", f"Disk {name} is attached to VM {vm}.")


def throttled(seconds: int, policy: str = "UpdateVMResource") -> ArmError:
    return ArmError(
        429,
        "TooManyRequests",
        "The request is being throttled as the limit has been reached for operation type. For more information, see "
        "https://aka.ms/srpthrottlinglimits",
        headers={"Retry-After": str(seconds), "x-ms-ratelimit-remaining-resource": f"Microsoft.Compute/{policy};0"},
    )


def quota(limit: int) -> ArmError:
    return ArmError(
        409,
        "OperationNotAllowed",
        "Operation could not be completed as it results in exceeding approved Total Regional Disks quota. "
        f"Additional details - Current Limit: {limit}.",
    )


def etag_mismatch() -> ArmError:
    return ArmError(
        412,
        "ConditionNotMet",
        "The condition specified using HTTP conditional header(s) is not met.",
    )


def bad_skip_token() -> ArmError:
    return ArmError(400, "InvalidSkipToken", "The skip token of the request is malformed or has expired.")


def frozen_property(name: str) -> ArmError:
    return ArmError(409, "PropertyChangeNotAllowed", f"Changing property '{name}' is not allowed.", target=name)


def no_source(source: str) -> ArmError:
    return ArmError(
        404, "NotFound", f"The source resource {source} is not found.", target="creationData.sourceResourceId"
    )


def unfinished_source(name: str, percent: float) -> ArmError:
    return ArmError(
        409,
        "OperationNotAllowed",
        f"Snapshot {name} is still being copied ({percent:.0f} percent) and cannot be used as a source.",
    )


def size_missing() -> ArmError:
    return ArmError(
        400, "InvalidParameter", "The value of parameter 'disk.diskSizeGB' is missing.", target="diskSizeGB"
    )


_STATUS_OF = {
    "AuthorizationFailed": 403,
    "LinkedAuthorizationFailed": 403,
    "ResourceNotFound": 404,
    "NotFound": 404,
    "BadRequest": 400,
    "InvalidParameter": 400,
    "TooManyRequests": 429,
    "SubscriptionRequestsThrottled": 429,
    "InternalServerError": 500,
    "InternalExecutionError": 500,
    "ServerTimeout": 503,
    "ServiceUnavailable": 503,
}
"""HTTP status of codes that faults name; 409 for the others."""


def of_fault(code: str, message: str = "", status: int = 0, retry_after: float | None = None) -> ArmError:
    """What a fault asks for, in Azure's form."""
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:.0f}"}
    sentence = message or f"The operation failed with {code}."
    return ArmError(status or _STATUS_OF.get(code, 409), code, sentence, headers=headers)


def access_while_attached(name: str, vm: str) -> ArmError:
    """[R]"""
    return ArmError(
        409, "Conflict", f"Access not permitted because disk {name} is currently attached to running VM {vm}."
    )


def throttled_subscription(seconds: int) -> ArmError:
    return ArmError(
        429,
        "SubscriptionRequestsThrottled",
        "Number of requests for the subscription and operation type exceeded the backend storage limit. Please try "
        f"again after '{seconds}' seconds.",
        headers={"Retry-After": str(seconds), "x-ms-ratelimit-remaining-subscription-reads": "0"},
    )
