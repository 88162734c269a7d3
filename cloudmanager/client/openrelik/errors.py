"""What can go wrong between a task's input files and their bytes.

ClientError
└── PreparationFailed   every disk of the task failed: `failures` says which and why
    DescriptorError     the file that describes a disk cannot be understood
    DiskNotNamed        what it says fits no disk, or several
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cloudmanager.client.errors import ClientError

if TYPE_CHECKING:
    from cloudmanager.client.openrelik.prepared import Failure


class DescriptorError(ClientError):
    """A task's input file says that it describes a disk, and does not."""


class DiskNotNamed(ClientError):
    """The service knows no disk of that description, or more than one."""


class PreparationFailed(ClientError):
    """No disk of the task could be prepared."""

    def __init__(self, detail: str, *, failures: Sequence[Failure] = ()) -> None:
        super().__init__(detail)
        self.failures = tuple(failures)

    @property
    def retriable(self) -> bool:
        """Whether another attempt at the task may do better, for one disk at least."""
        return any(failure.retriable for failure in self.failures)
