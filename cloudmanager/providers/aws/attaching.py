"""Attaches volumes to this machine and detaches them. DescribeVolumes is the truth: no answer to an attach is."""

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from cloudmanager.core.errors import (
    CloudManagerError,
    CloudUnavailable,
    DiskInUse,
    ForeignAttachment,
    NameClash,
    WrongZone,
)
from cloudmanager.core.model import Access, Attachment, AttachPlan, Disk
from cloudmanager.providers._disk_locks import Turns
from cloudmanager.providers._proofs import LatestProofs
from cloudmanager.providers._retrying import retrying
from cloudmanager.providers._waiting import TimedOut, wait_for
from cloudmanager.providers.aws.api import Ec2, filter_by
from cloudmanager.providers.aws.device_name import NAMES, taken_on
from cloudmanager.providers.aws.errors import is_unanswered
from cloudmanager.providers.aws.facts import AttachmentState, Volume, VolumeAttachment
from cloudmanager.providers.aws.machine import Machine
from cloudmanager.providers.aws.proof import Proof, lasting, proves
from cloudmanager.providers.aws.resource_id import ResourceId
from cloudmanager.providers.aws.settings import AwsSettings

Seen = TypeVar("Seen")
Keep = Callable[[str], None]
FIRST_PAUSE_SECONDS = 0.25
UNPROVED = "nothing proves that a request of this service did that."


class Attaching:
    """The volumes of one machine."""

    def __init__(self, ec2: Ec2, settings: AwsSettings, machine: Machine) -> None:
        """`ec2` is that of the machine's region."""
        self._ec2 = ec2
        self._settings = settings
        self._machine = machine
        self._turns = Turns()
        self._slots = settings.slots(machine.node.native_id)
        self._answers = LatestProofs()
        self._dice = random.SystemRandom()

    def plan(self, disk: Disk, id: ResourceId) -> AttachPlan:
        """Asks once for the machine's volumes, under the lock that names are chosen under."""
        if id.region != self._machine.region:
            raise WrongZone(
                f"{disk.id} is in {id.region}, and this machine in {self._machine.zone}: copy a snapshot of it to "
                f"{self._machine.region}, and make a volume from that."
            )
        with self._slots.locked() as memory:
            mine = list(self._ec2.every_volume(filter_by("attachment.instance-id", self._machine.instance_id)))
            here = next((item for volume in mine if volume.id == id.id and (item := self._here(volume))), None)
            if here is not None and not here.state.is_leaving:
                return self._plan(disk, here.device, is_present=True)
            names = self._dice.sample(NAMES, len(NAMES))  # so that nobody takes the same one by chance
            return self._plan(disk, memory.choose(names, taken_on(self._machine.instance_id, mine)))

    def attach(self, plan: AttachPlan, id: ResourceId, keep: Keep) -> Attachment:
        """Changes nothing when the volume is here already."""
        with self._turns.of(id.id):  # hooks run in several threads: one asks, the others find what it did
            plan = replace(plan, proof=self._answers.get(plan))
            volume = self._settled(plan, id)
            if self._here(volume) is None:
                plan = self._request(plan, volume, keep)
        here = self._awaited(plan, id)
        attachment = replace(plan.attachment(), access=Access.READ_WRITE, slot=here.device)
        return attachment if self._is_ours(plan, here) else replace(attachment, request_id="", reason=_why(plan, here))

    def detach(self, attachment: Attachment, id: ResourceId) -> None:
        """Of a volume that is attached under another name, or was at another time, nothing is touched.

        Raises ForeignAttachment where no request of ours is known.
        """
        asked: list[VolumeAttachment] = []
        stuck_at = time.monotonic() + self._settings.stuck_seconds

        def look() -> bool | None:
            here = self._here(self._ec2.volume(id.id))
            if here is None or here.device != attachment.slot:
                return True
            if not self._proves(attachment.proof, here, attachment.slot):
                if attachment.proof:
                    return True  # ours was detached, and somebody has attached it again
                raise ForeignAttachment(f"{attachment.disk.id} is attached as {here.device}, and {UNPROVED}")
            is_due = here.state is AttachmentState.ATTACHED or _is_stuck(here, stuck_at)
            if is_due and here not in asked:  # asked once: what EC2 does not carry out, the timeout reports
                asked.append(here)
                self._ec2.detach(id.id, self._machine.instance_id, here.device)
                return look()
            return None

        self._wait(look, self._settings.detach_timeout_seconds, f"has not detached {id.id} from")

    def _plan(self, disk: Disk, device: str, *, is_present: bool = False) -> AttachPlan:
        return AttachPlan(disk, self._machine.node, Access.READ_WRITE, str(uuid.uuid4()), device, is_present)

    def _settled(self, plan: AttachPlan, id: ResourceId) -> Volume:
        """The volume once no earlier detach is under way: it would end what is attached now.

        Raises NameClash when the plan cannot be carried out any more.
        """
        left: set[str] = set()

        def look() -> Volume | None:
            volume = self._ec2.volume(id.id)
            here = self._here(volume)
            if here is None or not here.state.is_leaving:
                return volume
            left.add(here.device)
            return None

        volume = self._wait(look, self._settings.attach_timeout_seconds, f"is still detaching {id.id} from")
        if self._here(volume) is None and (plan.is_present or plan.slot in left):
            raise NameClash(f"{plan.disk.id} was attached as {plan.slot}, and is not any more: it needs a new plan.")
        return volume

    def _request(self, plan: AttachPlan, volume: Volume, keep: Keep) -> AttachPlan:
        """Asks EC2 to attach, once. It is asked again only after a look at what became of the first request.

        The plan with what proves that the attachment is its own.
        """
        looked = [volume]
        before = lasting(plan.proof)

        def kept(text: str) -> None:
            self._answers.keep(plan, text)
            keep(text)

        def ask() -> None:
            seen = looked.pop() if looked else self._ec2.volume(volume.id)
            if self._here(seen) is not None:
                return
            self._refuse_held(plan, seen)
            kept(str(Proof.asked(seen.seen_at or datetime.now(UTC))))
            try:
                answer = self._ec2.attach(volume.id, self._machine.instance_id, plan.slot)
            except CloudManagerError as error:
                if is_unanswered(error) and self._here(self._ec2.volume(volume.id)) is not None:
                    return  # it was carried out all the same
                kept(before)
                if not isinstance(error, DiskInUse):
                    raise
                self._explain(plan, self._ec2.volume(volume.id), error)
            else:
                if answer.since:
                    kept(str(Proof.attached(answer.since)))

        retrying(ask, attempts=self._settings.retry_attempts, timeout=self._settings.request_timeout_seconds)
        return replace(plan, proof=self._answers.get(plan))

    def _is_ours(self, plan: AttachPlan, here: VolumeAttachment) -> bool:
        return not plan.is_present and self._proves(plan.proof, here, plan.slot)

    def _proves(self, proof: str, here: VolumeAttachment, slot: str) -> bool:
        return proves(proof, here, slot, timedelta(seconds=self._settings.request_timeout_seconds))

    def _refuse_held(self, plan: AttachPlan, volume: Volume, cloud_code: str | None = None) -> None:
        others = volume.elsewhere(self._machine.instance_id)
        if others and not volume.is_multi_attach:
            raise DiskInUse(
                f"{plan.disk.id} is attached to {others[0]}: detach it there, or make a snapshot and from it a volume.",
                holder=others[0],
                cloud_code=cloud_code,
            )

    def _explain(self, plan: AttachPlan, volume: Volume, error: DiskInUse) -> None:
        """Why EC2 says that the volume is in use. Somebody who attached it to this very instance is no error."""
        if self._here(volume) is not None:
            return
        self._refuse_held(plan, volume, error.cloud_code)
        raise DiskInUse(
            f"EC2 says that {plan.disk.id} is in use, and names no instance that has it.",
            cloud_code=error.cloud_code,
            retriable=True,
        ) from error

    def _awaited(self, plan: AttachPlan, id: ResourceId) -> VolumeAttachment:
        """The attachment once it is `attached`. One of ours that is stuck is undone: NameClash."""
        was_here = False
        stuck_at = time.monotonic() + self._settings.stuck_seconds

        def look() -> VolumeAttachment | None:
            nonlocal was_here
            volume = self._ec2.volume(id.id)
            here = self._here(volume)
            if here is None:
                self._refuse_held(plan, volume)
                if was_here:
                    raise CloudUnavailable(f"EC2 began to attach {id.id} and gave it up, or somebody detached it.")
                return None
            was_here = True
            if _is_stuck(here, stuck_at) and self._is_ours(plan, here):
                self._undo(plan, id)
            return here if here.state is AttachmentState.ATTACHED else None

        return self._wait(look, self._settings.attach_timeout_seconds, f"has not attached {id.id} to")

    def _undo(self, plan: AttachPlan, id: ResourceId) -> None:
        """EC2 leaves a volume `attaching` for ever when it did not let go of the name: only another name helps."""
        self.detach(plan.attachment(), id)
        raise NameClash(
            f"{plan.disk.id} was stuck attaching as {plan.slot} for {self._settings.stuck_seconds:g} s and was "
            "detached again; another device name is tried."
        )

    def _here(self, volume: Volume) -> VolumeAttachment | None:
        return volume.on(self._machine.instance_id)

    def _wait(self, look: Callable[[], Seen | None], seconds: float, what: str) -> Seen:
        pause = min(FIRST_PAUSE_SECONDS, self._settings.poll_seconds)
        try:
            return wait_for(look, timeout=seconds, interval=self._settings.poll_seconds, first=pause)
        except TimedOut:
            raise CloudUnavailable(
                f"EC2 {what} {self._machine.instance_id} after {seconds:g} s; it is tried again."
            ) from None


def _why(plan: AttachPlan, here: VolumeAttachment) -> str:
    """Why the attachment is not taken for the plan's."""
    if plan.is_present:
        return f"{plan.disk.id} was attached as {here.device} before it was planned."
    if here.device != plan.slot:
        return f"{plan.disk.id} is attached as {here.device}, and was planned as {plan.slot}: somebody was faster."
    since = f", since {here.since.isoformat()}" if here.since else ""
    return f"{plan.disk.id} is attached as {here.device}{since}, and {UNPROVED}"


def _is_stuck(here: VolumeAttachment, stuck_at: float) -> bool:
    """Counted from when we began to look, so that a machine's wrong clock ends nothing."""
    return here.state is AttachmentState.ATTACHING and time.monotonic() >= stuck_at
