"""What can go wrong for a client, as types. Nothing else leaves `cloudmanager.client`.

ClientError
├── InvalidSetup                what this side was given cannot be used: an address, a token, certificates
├── Unreachable                 the service gave no answer within the retry budget (`retry_seconds`)
├── UnexpectedAnswer            what answered is no cloudmanager, or one that this client does not understand
├── NotReadyInTime              the export was not ready when the caller's time was over
├── ExportLost                  the export ended while it was in use: `reason` says how
└── ServiceError                what the service answered, by the code of its problem
    ├── InvalidRequest              the caller must change the request
    │   ├── InvalidDiskId
    │   ├── AmbiguousDisk               several disks have that name: `detail` lists them
    │   ├── UnsupportedAccess           the disk cannot be exported that way
    │   ├── IdempotencyMismatch         the key was used for another request
    │   ├── InvalidContent              what was sent for a disk is not made as it should be
    │   ├── MalformedRequest
    │   ├── MethodNotAllowed            the service is older or newer than this client
    │   ├── RequestTooLarge
    │   └── UnsupportedMediaType
    ├── NotFound
    │   ├── ProviderNotFound
    │   ├── NodeNotFound
    │   ├── DiskNotFound
    │   ├── ExportNotFound
    │   └── RouteNotFound               the service is older or newer than this client
    ├── Unauthorized                no token, or an unknown one
    ├── HostRefused                 called by a name that is not the service's
    ├── OriginRefused
    ├── Refused                     a policy said no
    ├── ProviderPaused              an operator lets it make no new exports
    ├── NodeDraining                an operator lets it take no new exports
    ├── NodeDisplaced               another service has the name of the one that was asked
    ├── ShuttingDown                the service is ending: the next one may do it
    ├── Conflict                    `holder` names the conflicting holder
    │   ├── AccessConflict
    │   ├── DiskInUse
    │   ├── ForeignAttachment           on an attachment only: it is not proved to be the service's
    │   ├── ExportNotReady
    │   └── ExportOver                  it cannot be renewed: ask for a new one
    ├── ImageError
    │   ├── CorruptImage
    │   ├── UnsafeImage
    │   ├── UnreasonableImage
    │   ├── NotADisk
    │   └── EmptyImage
    ├── CloudError                  `cloud_code` is the cloud's own
    │   ├── AccessDenied
    │   ├── AttachLimit
    │   ├── WrongZone
    │   ├── NameClash
    │   ├── Throttled
    │   ├── CloudUnavailable
    │   └── ProviderFailure
    ├── DeviceError
    │   ├── DeviceNotReady
    │   └── DeviceMismatch
    │       └── DiskReplaced            another disk has the name now: ask again to get that one
    ├── ServerError                 qemu-nbd
    │   ├── ServerFailed
    │   ├── SizeMismatch
    │   ├── PortsExhausted
    │   ├── TransferUnavailable         the service does not move the bytes itself: NBD does
    │   └── TransferFailed
    ├── ResourcesExhausted          of files, memory or processes
    ├── StoreUnavailable
    │   ├── StoreFull
    │   ├── StoreReadOnly
    │   ├── StoreLocked
    │   └── StoreDamaged
    ├── SetupError                  the service cannot work as it is configured
    │   ├── ConfigurationError
    │   ├── PluginError
    │   ├── MissingExtra
    │   └── UnsupportedStore
    └── InternalError               a defect of the service

A code that this client does not know is a ServiceError. All of them can be pickled, as task queues do.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import ClassVar


class ClientError(Exception):
    """An error whose sentence, `detail`, says what happened and what can be done next."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class InvalidSetup(ClientError):
    """The address of the service, its token, the holder, a key or certificates cannot be used as they are."""


class Unreachable(ClientError):
    """No answer came. A request that changes something may have arrived all the same."""


class UnexpectedAnswer(ClientError):
    """An answer without what it must have."""


class NotReadyInTime(ClientError):
    """The export is released when this is raised by `export`."""

    def __init__(self, detail: str, *, export_id: str = "") -> None:
        super().__init__(detail)
        self.export_id = export_id


class LostReason(StrEnum):
    """How an export ended that was in use."""

    EXPIRED = "expired"
    """It could not be renewed in time."""
    RELEASED = "released"
    """Somebody else released it."""
    FAILED = "failed"
    """It can no longer be served; `problem` says why."""
    FORGOTTEN = "forgotten"
    """The service does not know it."""


class ExportLost(ClientError):
    """Nothing more can be read at the address. Ask for a new export.

    `problem` is why the service could not serve or renew it, if there was such an error. `__cause__` is what the worker
    met first, if that was how it came out.
    """

    def __init__(
        self,
        detail: str,
        *,
        reason: LostReason = LostReason.RELEASED,
        export_id: str = "",
        problem: ClientError | None = None,
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.export_id = export_id
        self.problem = problem

    def again(self) -> "ExportLost":
        """A copy to raise: one exception that is raised in several places collects all their tracebacks."""
        return ExportLost(self.detail, reason=self.reason, export_id=self.export_id, problem=self.problem)


class ServiceError(ClientError):
    """An error that the service answered with, or that it keeps of an export that failed.

    `status` is HTTP's, 0 for the error of an export. `retry_after` is in seconds. `mistakes` says which fields were
    wrong.
    """

    code: ClassVar[str] = "error"

    def __init__(
        self,
        detail: str,
        *,
        given_code: str = "",
        title: str = "",
        status: int = 0,
        retriable: bool = False,
        cloud_code: str | None = None,
        retry_after: float | None = None,
        holder: str | None = None,
        mistakes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(detail)
        self.given_code = given_code or self.code
        """The code in the answer: `code`, unless this client does not know it."""
        self.title = title
        self.status = status
        self.retriable = retriable
        self.cloud_code = cloud_code
        self.retry_after = retry_after
        self.holder = holder
        self.mistakes = mistakes


class InvalidRequest(ServiceError):
    """The request must be changed."""

    code = "invalid_request"


class InvalidDiskId(InvalidRequest):
    """The disk id has the wrong form."""

    code = "invalid_disk_id"


class AmbiguousDisk(InvalidRequest):
    """Several disks have the name; `detail` lists them."""

    code = "ambiguous_disk"


class UnsupportedAccess(InvalidRequest):
    """The disk cannot be exported with this access."""

    code = "unsupported_access"


class IdempotencyMismatch(InvalidRequest):
    """The idempotency key was used for a different request."""

    code = "idempotency_mismatch"


class InvalidContent(InvalidRequest):
    """Uploaded content has the wrong form."""

    code = "invalid_content"


class MalformedRequest(InvalidRequest):
    """The service could not decode the request."""

    code = "malformed_request"


class MethodNotAllowed(InvalidRequest):
    """The service is older or newer than this client."""

    code = "method_not_allowed"


class RequestTooLarge(InvalidRequest):
    """The request is longer than the service accepts."""

    code = "request_too_large"


class UnsupportedMediaType(InvalidRequest):
    """The service does not accept this media type."""

    code = "unsupported_media_type"


class NotFound(ServiceError):
    """The service does not know what the request names."""

    code = "not_found"


class ProviderNotFound(NotFound):
    """No provider of this name is configured."""

    code = "provider_not_found"


class NodeNotFound(NotFound):
    """No node of this name uses the store."""

    code = "node_not_found"


class DiskNotFound(NotFound):
    """The provider has no such disk."""

    code = "disk_not_found"


class ExportNotFound(NotFound):
    """The service does not know the export, or has forgotten it."""

    code = "export_not_found"


class RouteNotFound(NotFound):
    """The service is older or newer than this client."""

    code = "route_not_found"


class Unauthorized(ServiceError):
    """The token is missing or unknown."""

    code = "unauthorized"


class HostRefused(ServiceError):
    """The request used a host name that the service does not accept."""

    code = "host_refused"


class OriginRefused(ServiceError):
    """The request came from a web page of another origin."""

    code = "origin_refused"


class Refused(ServiceError):
    """A policy plugin refused the request."""

    code = "refused"


class ProviderPaused(ServiceError):
    """An operator has paused the provider."""

    code = "provider_paused"


class NodeDraining(ServiceError):
    """An operator drains the node."""

    code = "node_draining"


class NodeDisplaced(ServiceError):
    """Another service has taken over the name of the node."""

    code = "node_displaced"


class ShuttingDown(ServiceError):
    """The service is stopping; ask again when it runs."""

    code = "shutting_down"


class Conflict(ServiceError):
    """Another claim excludes this one; `holder` names its holder."""

    code = "conflict"


class AccessConflict(Conflict):
    """Another export excludes this access."""

    code = "access_conflict"


class DiskInUse(Conflict):
    """Something other than cloudmanager uses the disk."""

    code = "disk_in_use"


class ForeignAttachment(Conflict):
    """The attachment is not proved to be the work of the service, so it is never detached."""

    code = "foreign_attachment"


class ExportNotReady(Conflict):
    """The export must be ready for this request."""

    code = "export_not_ready"


class ExportOver(Conflict):
    """The export has ended and cannot be renewed: ask for a new one."""

    code = "export_over"


class ImageError(ServiceError):
    """The image cannot be exported."""

    code = "image_error"


class CorruptImage(ImageError):
    """The image is damaged."""

    code = "corrupt_image"


class UnsafeImage(ImageError):
    """The image refers to other files that it may not read."""

    code = "unsafe_image"


class UnreasonableImage(ImageError):
    """Opening the image would need more memory or time than the service allows."""

    code = "unreasonable_image"


class NotADisk(ImageError):
    """The file is not a disk image."""

    code = "not_a_disk"


class EmptyImage(ImageError):
    """The image has no bytes."""

    code = "empty_image"


class CloudError(ServiceError):
    """The cloud reported an error; `cloud_code` is the cloud's own code."""

    code = "cloud_error"


class AccessDenied(CloudError):
    """The cloud denied access: check the permissions of the service."""

    code = "access_denied"


class AttachLimit(CloudError):
    """The node cannot attach another disk."""

    code = "attach_limit"


class WrongZone(CloudError):
    """The disk is in another zone than the node."""

    code = "wrong_zone"


class NameClash(CloudError):
    """The cloud uses the name already."""

    code = "name_clash"


class Throttled(CloudError):
    """The cloud asks for fewer requests."""

    code = "throttled"


class CloudUnavailable(CloudError):
    """The cloud does not answer or is failing."""

    code = "cloud_unavailable"


class ProviderFailure(CloudError):
    """The provider failed in a way that it could not classify."""

    code = "provider_failure"


class DeviceError(ServiceError):
    """The device of an attached disk cannot be used."""

    code = "device_error"


class DeviceNotReady(DeviceError):
    """The device has not appeared yet."""

    code = "device_not_ready"


class DeviceMismatch(DeviceError):
    """The device is not the disk that was claimed."""

    code = "device_mismatch"


class DiskReplaced(DeviceMismatch):
    """A different disk has the name now: ask again to export that one."""

    code = "disk_replaced"


class ServerError(ServiceError):
    """The NBD server of the export has a problem."""

    code = "server_error"


class ServerFailed(ServerError):
    """The NBD server could not be started, or ended."""

    code = "server_failed"


class SizeMismatch(ServerError):
    """The NBD server serves another size than the disk has."""

    code = "size_mismatch"


class PortsExhausted(ServerError):
    """No port is free for another export."""

    code = "ports_exhausted"


class TransferUnavailable(ServerError):
    """The service does not transfer content itself: use NBD."""

    code = "transfer_unavailable"


class TransferFailed(ServerError):
    """The service could not transfer the content."""

    code = "transfer_failed"


class ResourcesExhausted(ServiceError):
    """The service has no more files, memory or processes."""

    code = "resources_exhausted"


class StoreUnavailable(ServiceError):
    """The store of the service cannot be used."""

    code = "store_unavailable"


class StoreFull(StoreUnavailable):
    """There is no space left for the store."""

    code = "store_full"


class StoreReadOnly(StoreUnavailable):
    """The store cannot be written."""

    code = "store_read_only"


class StoreLocked(StoreUnavailable):
    """Another process has locked the store."""

    code = "store_locked"


class StoreDamaged(StoreUnavailable):
    """The store is damaged."""

    code = "store_damaged"


class SetupError(ServiceError):
    """The configuration of the service is wrong."""

    code = "setup_error"


class ConfigurationError(SetupError):
    """A setting of the service is wrong."""

    code = "configuration_error"


class PluginError(SetupError):
    """A plugin of the service cannot be used."""

    code = "plugin_error"


class MissingExtra(SetupError):
    """A Python package is missing on the service."""

    code = "missing_extra"


class UnsupportedStore(SetupError):
    """The store is of a version that the service cannot use."""

    code = "unsupported_store"


class InternalError(ServiceError):
    """A defect of the service; its log has the details."""

    code = "internal_error"


def _tree(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


BY_CODE: dict[str, type[ServiceError]] = {kind.code: kind for kind in _tree(ServiceError)}
"""The class of each code that a service may answer with."""
