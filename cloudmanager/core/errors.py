"""What can go wrong, as types. Nothing else leaves a provider, the core or the façade.

CloudManagerError
├── InvalidRequest              the caller must change the request
│   ├── InvalidDiskId
│   ├── AmbiguousDisk           several disks have that name: the message lists the candidates
│   ├── UnsupportedAccess       the disk cannot be exported that way
│   ├── IdempotencyMismatch     the key was used for another request
│   └── InvalidContent          the frames that were sent for a disk are malformed
├── NotFound
│   ├── ProviderNotFound
│   ├── NodeNotFound
│   ├── DiskNotFound
│   └── ExportNotFound
├── Refused                     a policy plugin refuses it
├── ProviderPaused              an operator lets it make no new exports
├── NodeDraining                an operator lets it take no new exports
├── NodeDisplaced               another service has taken this one's name over
├── ShuttingDown                the service is ending: retriable
├── Conflict                    conflicts with another claim
│   ├── AccessConflict          another export, or an attachment in another mode
│   ├── DiskInUse               attached to another node, or held by this machine
│   ├── ForeignAttachment       attached here by somebody else, or so that nothing proves the contrary
│   ├── ExportNotReady          not yet: retriable
│   └── ExportOver              the export is closing, closed or failed
├── ImageError                  the bytes of an image file
│   ├── CorruptImage
│   ├── UnsafeImage             it refers to other files
│   ├── UnreasonableImage       its tables are larger than any real disk's
│   ├── NotADisk                an archive, a compressed file, one piece of a disk
│   └── EmptyImage
├── CloudError                  what a cloud answered
│   ├── AccessDenied
│   ├── AttachLimit
│   ├── WrongZone
│   ├── NameClash               device name or LUN taken: take the next one
│   ├── Throttled               retriable
│   ├── CloudUnavailable        retriable
│   └── ProviderFailure         anything that a provider did not translate
├── DeviceError                 the disk's device on this machine
│   ├── DeviceNotReady          attached, but not there yet: retriable
│   └── DeviceMismatch          another disk is where this one should be
│       └── DiskReplaced            it has the name of one that is gone
├── ServerError                 qemu-nbd
│   ├── ServerFailed            it ended or never answered
│   ├── SizeMismatch            it would serve another size than the disk was found to have
│   ├── PortsExhausted          retriable
│   ├── TransferUnavailable     the service cannot move the bytes itself; NBD does
│   └── TransferFailed          it could not move them to the end
├── ResourcesExhausted          of files, memory or processes: retriable
├── StoreUnavailable            retriable
│   ├── StoreFull               no space is left for it
│   ├── StoreReadOnly           its file system or server takes no writes
│   ├── StoreLocked             another program keeps it locked
│   └── StoreDamaged            what is in it cannot be understood
└── SetupError                  found at start, before anything is served
    ├── ConfigurationError
    ├── PluginError
    ├── MissingExtra
    └── UnsupportedStore        this kind of store is looked after with other tools
"""

from typing import ClassVar

_RESTART_SECONDS = 10.0
"""When a client may expect the next service after one that ends."""


class CloudManagerError(Exception):
    """An error that names what happened and what can be done next.

    `detail` is one or two sentences for a person. `cloud_code` is the cloud's own code, unchanged.
    `retry_after` is in seconds. `holder` names the conflicting holder.
    """

    code: ClassVar[str] = "error"
    title: ClassVar[str] = "Something went wrong"
    retriable: bool = False

    def __init__(
        self,
        detail: str,
        *,
        cloud_code: str | None = None,
        retry_after: float | None = None,
        retriable: bool | None = None,
        holder: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.cloud_code = cloud_code
        self.retry_after = retry_after
        self.holder = holder
        if retriable is not None:
            self.retriable = retriable


class InvalidRequest(CloudManagerError):
    code = "invalid_request"
    title = "The request is not valid"


class InvalidDiskId(InvalidRequest):
    code = "invalid_disk_id"
    title = "That is not the id of a disk"


class AmbiguousDisk(InvalidRequest):
    code = "ambiguous_disk"
    title = "Several disks have that name"


class UnsupportedAccess(InvalidRequest):
    code = "unsupported_access"
    title = "The disk cannot be exported with this access"


class IdempotencyMismatch(InvalidRequest):
    code = "idempotency_mismatch"
    title = "The idempotency key belongs to another request"


class InvalidContent(InvalidRequest):
    code = "invalid_content"
    title = "The content is not made of valid frames"


class NotFound(CloudManagerError):
    code = "not_found"
    title = "There is no such thing"


class ProviderNotFound(NotFound):
    code = "provider_not_found"
    title = "No provider of that name is configured"


class NodeNotFound(NotFound):
    code = "node_not_found"
    title = "No node of that name is known"


class DiskNotFound(NotFound):
    code = "disk_not_found"
    title = "There is no such disk"


class ExportNotFound(NotFound):
    code = "export_not_found"
    title = "There is no such export"


class Refused(CloudManagerError):
    code = "refused"
    title = "A policy refuses this export"


class ProviderPaused(CloudManagerError):
    code = "provider_paused"
    title = "The provider is paused"


class NodeDraining(CloudManagerError):
    code = "node_draining"
    title = "The node takes no new exports"


class NodeDisplaced(CloudManagerError):
    code = "node_displaced"
    title = "Another service has this one's name"


class ShuttingDown(CloudManagerError):
    code = "shutting_down"
    title = "The service is ending"
    retriable = True

    def __init__(self, detail: str) -> None:
        super().__init__(detail, retry_after=_RESTART_SECONDS)


class Conflict(CloudManagerError):
    code = "conflict"
    title = "The request conflicts with another claim"


class AccessConflict(Conflict):
    code = "access_conflict"
    title = "The disk is claimed in a way that excludes this access"


class DiskInUse(Conflict):
    code = "disk_in_use"
    title = "The disk is in use"


class ForeignAttachment(Conflict):
    code = "foreign_attachment"
    title = "Nothing proves that cloudmanager attached the disk"


class ExportNotReady(Conflict):
    code = "export_not_ready"
    title = "The export is not ready"
    retriable = True


class ExportOver(Conflict):
    code = "export_over"
    title = "The export is over"


class ImageError(CloudManagerError):
    code = "image_error"
    title = "The image cannot be exported"


class CorruptImage(ImageError):
    code = "corrupt_image"
    title = "The image is damaged"


class UnsafeImage(ImageError):
    code = "unsafe_image"
    title = "The image refers to other files"


class UnreasonableImage(ImageError):
    code = "unreasonable_image"
    title = "The image's tables are larger than any real disk's"


class NotADisk(ImageError):
    code = "not_a_disk"
    title = "The file is no disk"


class EmptyImage(ImageError):
    code = "empty_image"
    title = "The image is empty"


class CloudError(CloudManagerError):
    code = "cloud_error"
    title = "The cloud answered with an error"


class AccessDenied(CloudError):
    code = "access_denied"
    title = "The cloud denies access"


class AttachLimit(CloudError):
    code = "attach_limit"
    title = "No more disks can be attached to this machine"


class WrongZone(CloudError):
    code = "wrong_zone"
    title = "The disk is in another zone than this machine"


class NameClash(CloudError):
    code = "name_clash"
    title = "The device name or LUN is taken"
    retriable = True


class Throttled(CloudError):
    code = "throttled"
    title = "The cloud asks for fewer requests"
    retriable = True


class CloudUnavailable(CloudError):
    code = "cloud_unavailable"
    title = "The cloud cannot do this right now"
    retriable = True


class ProviderFailure(CloudError):
    code = "provider_failure"
    title = "The provider plugin failed"


class DeviceError(CloudManagerError):
    code = "device_error"
    title = "The disk's device cannot be used"


class DeviceNotReady(DeviceError):
    code = "device_not_ready"
    title = "The disk's device has not appeared yet"
    retriable = True


class DeviceMismatch(DeviceError):
    code = "device_mismatch"
    title = "Another disk is where this one should be"


class DiskReplaced(DeviceMismatch):
    code = "disk_replaced"
    title = "The disk is gone, and another one has its name"


class ServerError(CloudManagerError):
    code = "server_error"
    title = "The NBD server cannot serve the disk"


class ServerFailed(ServerError):
    code = "server_failed"
    title = "qemu-nbd could not serve the disk"


class SizeMismatch(ServerError):
    code = "size_mismatch"
    title = "The disk would be served with another size than it has"


class PortsExhausted(ServerError):
    code = "ports_exhausted"
    title = "No port is free for another export"
    retriable = True


class TransferUnavailable(ServerError):
    code = "transfer_unavailable"
    title = "The service does not move this disk's bytes itself"


class TransferFailed(ServerError):
    code = "transfer_failed"
    title = "The bytes were not moved to the end"


class ResourcesExhausted(CloudManagerError):
    code = "resources_exhausted"
    title = "The service or its machine has run out of what this needs"
    retriable = True


class StoreUnavailable(CloudManagerError):
    code = "store_unavailable"
    title = "The store cannot be read or written"
    retriable = True


class StoreFull(StoreUnavailable):
    code = "store_full"
    title = "No space is left for the store"


class StoreReadOnly(StoreUnavailable):
    code = "store_read_only"
    title = "The store cannot be written"


class StoreLocked(StoreUnavailable):
    code = "store_locked"
    title = "Another program keeps the store locked"


class StoreDamaged(StoreUnavailable):
    code = "store_damaged"
    title = "The store is damaged"
    retriable = False


class SetupError(CloudManagerError):
    code = "setup_error"
    title = "cloudmanager cannot start like this"


class ConfigurationError(SetupError):
    code = "configuration_error"
    title = "The configuration is not valid"


class PluginError(SetupError):
    code = "plugin_error"
    title = "A plugin cannot be used"


class MissingExtra(SetupError):
    code = "missing_extra"
    title = "A part of cloudmanager is not installed"


class UnsupportedStore(SetupError):
    code = "unsupported_store"
    title = "This kind of store is looked after with other tools"
