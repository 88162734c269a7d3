"""What can go wrong between an address and its bytes.

WayError
├── NotPossibleHere   this machine, or this address, does not allow the way
├── AccessFailed         a program or the kernel failed, with its message
├── AccessLost           the connection ended while the disk was in use
├── NotMountable      nothing to mount, or several things: name one
└── NotUndone         something is still set up; `cleanup` tries again
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cloudmanager.client.errors import ClientError


class AccessMethod(StrEnum):
    """From the fastest, which has the most requirements, to the one that has none."""

    DEVICE = "device"
    FILE = "file"
    STUB = "stub"


@dataclass(frozen=True)
class Outcome:
    """The result of undoing one step or one record."""

    what: str
    error: str = ""

    @property
    def is_undone(self) -> bool:
        return not self.error


class WayError(ClientError):
    """The base of all of these."""


class NotPossibleHere(WayError):
    """`reasons` has a sentence for each access method that was considered."""

    def __init__(self, detail: str, *, reasons: Mapping[AccessMethod, str] | None = None) -> None:
        super().__init__(detail)
        self.reasons = reasons or {}


class AccessFailed(WayError):
    """The message is that of the program or of the kernel."""


class AccessLost(WayError):
    """Data that was read before is valid; later reads failed with an error."""


class NotMountable(WayError):
    """The message lists what the disk has."""


class NotUndone(WayError):
    """`outcomes` are the steps that failed."""

    def __init__(self, detail: str, *, outcomes: Sequence[Outcome] = ()) -> None:
        super().__init__(detail)
        self.outcomes = tuple(outcomes)
