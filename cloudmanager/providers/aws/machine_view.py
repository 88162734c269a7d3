"""The volumes of this instance as EC2 describes them. DescribeVolumes is the truth: no answer to an attach is."""

from collections.abc import Callable
from typing import TypeVar

from cloudmanager.core.errors import CloudUnavailable
from cloudmanager.providers._waiting import TimedOut, wait_for
from cloudmanager.providers.aws.api import Ec2, filter_by
from cloudmanager.providers.aws.facts import Volume, VolumeAttachment
from cloudmanager.providers.aws.machine import Machine

Seen = TypeVar("Seen")
_FIRST_PAUSE_SECONDS = 0.25


class MachineView:
    """Looks at volumes; never changes them."""

    def __init__(self, ec2: Ec2, machine: Machine, poll_seconds: float) -> None:
        """`ec2` is that of the machine's region."""
        self._ec2 = ec2
        self._machine = machine
        self._poll_seconds = poll_seconds

    def volume(self, volume_id: str) -> Volume:
        """Raises DiskNotFound."""
        return self._ec2.volume(volume_id)

    def volumes(self) -> list[Volume]:
        """Those that this instance has, or is about to get or lose. The list may lag behind `volume`."""
        return list(self._ec2.every_volume(filter_by("attachment.instance-id", self._machine.instance_id)))

    def attachment(self, volume: Volume) -> VolumeAttachment | None:
        """The volume's attachment to this instance."""
        return volume.on(self._machine.instance_id)

    def wait_for(self, look: Callable[[], Seen | None], seconds: float, what: str) -> Seen:
        """As the function of this name. Raises CloudUnavailable, which says `what` EC2 has not done."""
        pause = min(_FIRST_PAUSE_SECONDS, self._poll_seconds)
        try:
            return wait_for(look, timeout=seconds, interval=self._poll_seconds, first=pause)
        except TimedOut:
            raise CloudUnavailable(
                f"EC2 {what} {self._machine.instance_id} after {seconds:g} s; it is tried again."
            ) from None
