"""What proves that an attachment of a volume is ours.

AttachVolume has no client token, and DescribeVolumes does not say who attached a volume. It does say when ("the time
stamp when the attachment initiated", in botocore's model of EC2, 2016-11-15), and the answer to our request says the
same: that proves the attachment for good. A request without an answer, because the connection broke or this process was
killed, was made at a known moment of EC2's clock, just after a look that showed the volume free: an attachment that
began then, under the one of 96 names that the plan has drawn, is taken for the request's. Any other is foreign.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Self

from cloudmanager.core.model import CONFIRMED
from cloudmanager.providers.aws.facts import VolumeAttachment

UNPROVED = "nothing proves that a request of this service did that."
_ROUNDING = timedelta(seconds=1)
"""DescribeVolumes and the Date header give times in whole seconds."""


class _Kind(StrEnum):
    ASKED = "asked"
    ATTACHED = "attached"


@dataclass(frozen=True)
class Proof:
    """One request, as the plan keeps it."""

    kind: _Kind
    at: datetime

    @classmethod
    def asked(cls, at: datetime) -> Self:
        """A request is made now, by EC2's clock."""
        return cls(_Kind.ASKED, at)

    @classmethod
    def attached(cls, at: datetime) -> Self:
        """EC2 has answered a request of ours with this AttachTime."""
        return cls(_Kind.ATTACHED, at)

    def __str__(self) -> str:
        return f"{self.kind} {self.at.isoformat()}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None: it says nothing of a request of ours."""
        kind, _, at = text.partition(" ")
        if kind not in list(_Kind):
            return None
        return cls(_Kind(kind), datetime.fromisoformat(at).astimezone(UTC))

    def fits(self, attachment: VolumeAttachment, longest_request: timedelta) -> bool:
        """It began when the request did. EC2 carries a request out within `longest_request`, or has refused it."""
        if attachment.since is None:
            return False
        latest = self.at + (longest_request if self.kind is _Kind.ASKED else timedelta())
        return self.at - _ROUNDING <= attachment.since <= latest + _ROUNDING


def lasting(text: str) -> str:
    """What is worth keeping when a new request is made: an answer is, that one was made once is not."""
    proof = Proof.parse(text)
    return text if text == CONFIRMED or (proof and proof.kind is _Kind.ATTACHED) else ""


def proves(text: str, attachment: VolumeAttachment, slot: str, longest_request: timedelta) -> bool:
    """Whether what a plan has kept proves that the attachment, under the plan's name, is its own."""
    if attachment.device != slot:
        return False
    if text == CONFIRMED:  # by a version that kept no times
        return True
    proof = Proof.parse(text)
    return proof is not None and proof.fits(attachment, longest_request)
