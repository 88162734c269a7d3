"""Attaches volumes to this machine. What EC2 says of the volume is the truth, not what a call returns."""

import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cloudmanager.core.errors import (
    CloudManagerError,
    CloudUnavailable,
    DiskInUse,
    NameClash,
    WrongZone,
)
from cloudmanager.core.model import Access, Attachment, AttachPlan, Disk
from cloudmanager.providers._capacity import Capacity
from cloudmanager.providers._disk_locks import DiskLocks
from cloudmanager.providers._proofs import LatestProofs
from cloudmanager.providers._retrying import retrying
from cloudmanager.providers.aws.api import Ec2
from cloudmanager.providers.aws.detaching import Detaching, is_stuck
from cloudmanager.providers.aws.device_name import NAMES, taken_on
from cloudmanager.providers.aws.errors import is_unanswered
from cloudmanager.providers.aws.facts import AttachmentState, EbsLimits, Volume, VolumeAttachment
from cloudmanager.providers.aws.machine import Machine, capacity
from cloudmanager.providers.aws.machine_view import MachineView
from cloudmanager.providers.aws.proof import UNPROVED, Proof, lasting, proves
from cloudmanager.providers.aws.resource_id import ResourceId
from cloudmanager.providers.aws.settings import AwsSettings

Keep = Callable[[str], None]


class Attaching:
    """To one machine."""

    def __init__(
        self,
        ec2: Ec2,
        view: MachineView,
        detaching: Detaching,
        settings: AwsSettings,
        machine: Machine,
        limits: Callable[[], EbsLimits],
    ) -> None:
        """`ec2` is that of the machine's region; `limits` are those of its type."""
        self._limits = limits
        self._ec2 = ec2
        self._view = view
        self._detaching = detaching
        self._settings = settings
        self._machine = machine
        self._locks = DiskLocks()
        self._slots = settings.slots(machine.node.native_id)
        self._answers = LatestProofs()
        self._dice = random.SystemRandom()

    def plan(self, disk: Disk, id: ResourceId) -> AttachPlan:
        """Asks once for the machine's volumes, under the lock that names are chosen under. Raises AttachLimit."""
        limits = self._limits()
        if id.region != self._machine.region:
            raise WrongZone(
                f"{disk.id} is in {id.region}, and this machine in {self._machine.zone}: copy a snapshot of it to "
                f"{self._machine.region}, and make a volume from that."
            )
        with self._slots.locked() as memory:
            mine = self._view.volumes()
            here = next(
                (item for volume in mine if volume.id == id.id and (item := self._view.attachment(volume))), None
            )
            if here is not None and not here.state.is_leaving:
                return self._plan(disk, here.device, is_present=True)
            self._capacity(mine, limits).refuse_full(str(disk.id))
            names = self._dice.sample(NAMES, len(NAMES))  # so that two services rarely choose the same one
            return self._plan(disk, memory.choose(names, taken_on(self._machine.instance_id, mine)))

    def attach(self, plan: AttachPlan, id: ResourceId, keep: Keep) -> Attachment:
        """Changes nothing when the volume is here already."""
        with self._locks.locked(id.canonical):  # one thread requests, the others find the result
            plan = replace(plan, proof=self._answers.get(plan))
            volume = self._settled(plan, id)
            if self._view.attachment(volume) is None:
                plan = self._request(plan, volume, keep)
        here = self._awaited(plan, id)
        attachment = replace(plan.attachment(), access=Access.READ_WRITE, slot=here.device)
        return attachment if self._is_ours(plan, here) else replace(attachment, request_id="", reason=_why(plan, here))

    def _plan(self, disk: Disk, device: str, *, is_present: bool = False) -> AttachPlan:
        return AttachPlan(disk, self._machine.node, Access.READ_WRITE, str(uuid.uuid4()), device, is_present)

    def _capacity(self, mine: Sequence[Volume], limits: EbsLimits) -> Capacity:
        """Without the volumes that are leaving: those free their slots."""
        attached = [item for volume in mine if (item := self._view.attachment(volume)) and not item.state.is_leaving]
        return capacity(self._settings, self._machine, limits, len(attached))

    def _card(self) -> int | None:
        """The EBS card with the fewest volumes of this machine; None where it has one card."""
        cards = self._limits().cards
        if len(cards) == 1:
            return None
        attached = [item for volume in self._view.volumes() if (item := self._view.attachment(volume))]
        return min(cards, key=lambda card: sum(item.card == card for item in attached))

    def _settled(self, plan: AttachPlan, id: ResourceId) -> Volume:
        """The volume once no earlier detach is under way: it would end what is attached now.

        Raises NameClash when the plan cannot be carried out any more.
        """
        left: set[str] = set()

        def look() -> Volume | None:
            volume = self._view.volume(id.id)
            here = self._view.attachment(volume)
            if here is None or not here.state.is_leaving:
                return volume
            left.add(here.device)
            return None

        volume = self._view.wait_for(look, self._settings.attach_timeout_seconds, f"is still detaching {id.id} from")
        if self._view.attachment(volume) is None and (plan.is_present or plan.slot in left):
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
            seen = looked.pop() if looked else self._view.volume(volume.id)
            if self._view.attachment(seen) is not None:
                return
            self._refuse_held(plan, seen)
            kept(str(Proof.asked(seen.seen_at or datetime.now(UTC))))
            try:
                answer = self._ec2.attach(volume.id, self._machine.instance_id, plan.slot, self._card())
            except CloudManagerError as error:
                if is_unanswered(error) and self._view.attachment(self._view.volume(volume.id)) is not None:
                    return  # it was carried out all the same
                kept(before)
                if not isinstance(error, DiskInUse):
                    raise
                self._explain(plan, self._view.volume(volume.id), error)
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
        """Why EC2 says that the volume is in use. An attachment to this instance is no error."""
        if self._view.attachment(volume) is not None:
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
            volume = self._view.volume(id.id)
            here = self._view.attachment(volume)
            if here is None:
                self._refuse_held(plan, volume)
                if was_here:
                    key = ", or its KMS key cannot be used" if volume.is_encrypted else ""
                    raise CloudUnavailable(f"EC2 began to attach {id.id} and stopped, or somebody detached it{key}.")
                return None
            was_here = True
            if is_stuck(here, stuck_at) and self._is_ours(plan, here):
                self._undo(plan, id)
            return here if here.state is AttachmentState.ATTACHED else None

        return self._view.wait_for(look, self._settings.attach_timeout_seconds, f"has not attached {id.id} to")

    def _undo(self, plan: AttachPlan, id: ResourceId) -> None:
        """EC2 leaves a volume `attaching` for ever when the name is not free yet: only another name helps."""
        self._detaching.detach(plan.attachment(), id)
        raise NameClash(
            f"{plan.disk.id} was stuck attaching as {plan.slot} for {self._settings.stuck_seconds:g} s and was "
            "detached again; another device name is tried."
        )


def _why(plan: AttachPlan, here: VolumeAttachment) -> str:
    """Why the attachment is not taken for the plan's."""
    if plan.is_present:
        return f"{plan.disk.id} was attached as {here.device} before it was planned."
    if here.device != plan.slot:
        return f"{plan.disk.id} is attached as {here.device}, and was planned as {plan.slot}."
    since = f", since {here.since.isoformat()}" if here.since else ""
    return f"{plan.disk.id} is attached as {here.device}{since}, and {UNPROVED}"
