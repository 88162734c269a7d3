"""What can go wrong in a deployment, as types.

ClientError
└── DeployError                 `is_resumable`: the target is incomplete, and the same call goes on where this one ended
    ├── MissingTool             a program or a library that is needed is not installed
    ├── SourceError             the image cannot be read
    │   ├── UnsafeSource            it refers to other files
    │   ├── UnsupportedSource       its format or version is not one that can be read
    │   ├── DamagedSource           it is not whole
    │   ├── UnreadableRange         one range of it cannot be read: `offset` and `length`
    │   └── SourceChanged           it was changed while it was read
    ├── TargetError             the target cannot be written, or read back
    │   ├── TargetTooSmall
    │   ├── TargetInUse
    │   ├── TargetNotEmpty
    │   ├── TargetUnreadable        one range of it cannot be read back: `offset` and `length`
    │   ├── SectorSizeDiffers       the image is laid out for sectors of another size than the target's
    │   └── TargetReadOnly
    ├── ConnectionLost          it could not be made again within `reconnect_seconds`
    ├── DifferenceFound         the target does not hold what the image holds: `offset` and `length` say where
    ├── GrowFailed              everything was written; the partition or its file system was not grown
    └── Cancelled
"""

from typing import Self

from cloudmanager.client.errors import ClientError


class DeployError(ClientError):
    """An image was not deployed."""

    def __init__(self, detail: str, *, is_resumable: bool = False) -> None:
        super().__init__(detail)
        self.is_resumable = is_resumable

    def name(self, subject: str) -> None:
        """Says what it is about, unless it does already."""
        if subject not in self.detail:
            self.detail = f"{subject}: {self.detail}"
            self.args = (self.detail,)


class MissingTool(DeployError):
    """Says which package has it."""


class SourceError(DeployError):
    """The image cannot be read."""


class UnsafeSource(SourceError):
    """The image would make the reader open files or addresses of its author's choice."""


class UnsupportedSource(SourceError):
    """Nothing here can read it."""


class DamagedSource(SourceError):
    """The image is cut off or broken."""


class UnreadableRange(SourceError):
    """A bad sector, as a rule."""

    def __init__(self, detail: str, *, offset: int = 0, length: int = 0, is_resumable: bool = False) -> None:
        super().__init__(detail, is_resumable=is_resumable)
        self.offset = offset
        self.length = length

    @classmethod
    def of(cls, offset: int, length: int, why: str) -> Self:
        detail = f"Bytes {offset} to {offset + length - 1} cannot be read: {why}."
        return cls(detail, offset=offset, length=length)


class SourceChanged(SourceError):
    """What was read is a mixture of an old and a new image."""


class TargetError(DeployError):
    """The target cannot be written, or read back."""


class TargetTooSmall(TargetError):
    """The image does not fit."""


class TargetInUse(TargetError):
    """Something else on this machine has it."""


class TargetNotEmpty(TargetError):
    """It has content, and overwriting was not requested."""


class SectorSizeDiffers(TargetError):
    """What is on the image would not be found on it."""


class TargetUnreadable(TargetError):
    """One range of it, in bytes, cannot be read back: a bad sector, as a rule."""

    def __init__(self, detail: str, *, offset: int = 0, length: int = 0, is_resumable: bool = False) -> None:
        super().__init__(detail, is_resumable=is_resumable)
        self.offset = offset
        self.length = length


class TargetReadOnly(TargetError):
    """It accepts no writes."""


class ConnectionLost(DeployError):
    """An NBD server went away, or stopped answering."""


class DifferenceFound(DeployError):
    """The first range, in bytes, in which the target is not like the image."""

    def __init__(self, detail: str, *, offset: int = 0, length: int = 0, is_resumable: bool = False) -> None:
        super().__init__(detail, is_resumable=is_resumable)
        self.offset = offset
        self.length = length


class GrowFailed(DeployError):
    """The image itself is in place."""


class Cancelled(DeployError):
    """The caller cancelled the deployment."""
