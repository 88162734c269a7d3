"""The volumes of this instance as EC2 describes them. DescribeVolumes is the truth: no answer to an attach is."""

from collections.abc import Callable, Collection
from typing import TypeVar

from cloudmanager.core.errors import CloudManagerError, CloudUnavailable, DiskNotFound
from cloudmanager.providers._shared_look import SharedLook, SharedLooks
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
        mine = filter_by("attachment.instance-id", machine.instance_id)
        self._volumes = SharedLook(lambda: list(ec2.every_volume(mine)))
        self._each = SharedLooks(self._describe)

    def volume(self, volume_id: str) -> Volume:
        """One call for all those that look at volumes at the same time. Raises DiskNotFound."""
        return self._each.look(volume_id)

    def volumes(self, max_age: float = 0.0) -> list[Volume]:
        """Those that this instance has, or is about to get or lose, at most `max_age` seconds ago.

        The list may lag behind `volume`.
        """
        return self._volumes.look(max_age)

    def _describe(self, volume_ids: Collection[str]) -> dict[str, Volume | Exception]:
        """A volume that does not exist spoils the answer for the others: each is asked for alone then."""
        try:
            return {volume.id: volume for volume in self._ec2.volumes_by_id(volume_ids)}
        except CloudManagerError as error:
            if len(volume_ids) == 1 or not isinstance(error, DiskNotFound):
                return dict.fromkeys(volume_ids, error)
        found: dict[str, Volume | Exception] = {}
        for volume_id in volume_ids:
            found |= self._describe([volume_id])
        return found

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
