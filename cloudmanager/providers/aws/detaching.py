"""Detaches from this instance what was attached to it here, and nothing else."""

import time
from datetime import timedelta

from cloudmanager.core.errors import ForeignAttachment
from cloudmanager.core.model import Attachment
from cloudmanager.providers.aws.api import Ec2
from cloudmanager.providers.aws.facts import AttachmentState, VolumeAttachment
from cloudmanager.providers.aws.machine import Machine
from cloudmanager.providers.aws.machine_view import MachineView
from cloudmanager.providers.aws.proof import UNPROVED, proves
from cloudmanager.providers.aws.resource_id import ResourceId
from cloudmanager.providers.aws.settings import AwsSettings


class Detaching:
    """From one machine."""

    def __init__(self, ec2: Ec2, view: MachineView, settings: AwsSettings, machine: Machine) -> None:
        """`ec2` is that of the machine's region."""
        self._ec2 = ec2
        self._view = view
        self._settings = settings
        self._machine = machine

    def detach(self, attachment: Attachment, id: ResourceId) -> None:
        """Leaves a volume alone that is attached under another name, or was attached at another time.

        Raises ForeignAttachment where no request of ours is known.
        """
        requested: list[VolumeAttachment] = []
        stuck_at = time.monotonic() + self._settings.stuck_seconds

        def look() -> bool | None:
            here = self._view.attachment(self._view.volume(id.id))
            if here is None or here.device != attachment.slot:
                return True
            if not self._proves(attachment, here):
                if attachment.proof:
                    return True  # ours was detached, and another attachment has the name since
                raise ForeignAttachment(f"{attachment.disk.id} is attached as {here.device}, and {UNPROVED}")
            is_due = here.state is AttachmentState.ATTACHED or is_stuck(here, stuck_at)
            if is_due and here not in requested:  # once: the timeout reports what EC2 does not carry out
                requested.append(here)
                self._ec2.detach(id.id, self._machine.instance_id, here.device)
                return look()
            return None

        self._view.wait_for(look, self._settings.detach_timeout_seconds, f"has not detached {id.id} from")

    def _proves(self, attachment: Attachment, here: VolumeAttachment) -> bool:
        longest_request = timedelta(seconds=self._settings.request_timeout_seconds)
        return proves(attachment.proof, here, attachment.slot, longest_request)


def is_stuck(here: VolumeAttachment, stuck_at: float) -> bool:
    """The attach has not ended by `stuck_at`, on the monotonic clock: a machine's wrong clock ends nothing."""
    return here.state is AttachmentState.ATTACHING and time.monotonic() >= stuck_at
