"""What can go wrong between an address and its bytes.

WayError
├── NotPossibleHere   this machine, or this address, does not allow the way
├── AccessFailed         it should have worked: a program or the kernel said why it did not
├── AccessLost           the connection ended while the disk was in use
├── NotMountable      nothing to mount, or it must be said which
└── NotUndone         something is still set up; `cleanup` tries again
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cloudmanager.client.errors import ClientError


class AccessMethod(StrEnum):
    """From the fastest, which needs the most, to the one that needs nothing."""

    DEVICE = "device"
    FILE = "file"
    STUB = "stub"


@dataclass(frozen=True)
class Outcome:
    """What became of one step, or of one record."""

    what: str
    error: str = ""

    @property
    def is_undone(self) -> bool:
        return not self.error


class WayError(ClientError):
    """The base of all of these."""


class NotPossibleHere(WayError):
    """`reasons` has a sentence for each way that was considered."""

    def __init__(self, detail: str, *, reasons: Mapping[AccessMethod, str] | None = None) -> None:
        super().__init__(detail)
        self.reasons = reasons or {}


class AccessFailed(WayError):
    """The message has the words of the program or of the kernel."""


class AccessLost(WayError):
    """What was read before is right; reads after it failed with an error."""


class NotMountable(WayError):
    """The message lists what the disk has."""


class NotUndone(WayError):
    """`outcomes` are the steps that failed."""

    def __init__(self, detail: str, *, outcomes: Sequence[Outcome] = ()) -> None:
        super().__init__(detail)
        self.outcomes = tuple(outcomes)
