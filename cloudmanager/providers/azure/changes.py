"""Changes to the data disks of a machine: all that wait at the same time go in one update.

Azure makes one change of a machine at a time, and takes few of them (12, then 4 a minute). Its API takes lists, so
threads queue what they want, and one of them sends the contents of the queue for all.
"""

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from cloudmanager.core.errors import AttachLimit, CloudManagerError, CloudUnavailable, Throttled
from cloudmanager.linux.files import lock
from cloudmanager.providers._waiting import Deadline
from cloudmanager.providers.azure.api import Compute
from cloudmanager.providers.azure.facts import MachineFacts
from cloudmanager.providers.azure.machine_view import MachineView
from cloudmanager.providers.azure.resource_id import ResourceId
from cloudmanager.providers.azure.settings import AzureSettings

_MOST_DATA_DISKS = 64
"""Of the largest sizes: there are so many LUNs."""
_GATHER_SECONDS = 0.5
"""How long an update waits for those that have been announced."""
_ANNOUNCED_SECONDS = 2.0
"""For so long an announced change is waited for."""


class Change:
    """An attach, or a detach, of one disk."""

    def __init__(
        self,
        disk: ResourceId,
        lun: int | None,
        deadline: Deadline,
        is_due: Callable[[MachineFacts], bool],
        on_accepted: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`lun`: where it is attached; None: it is detached.

        `is_due` is called with the settled machine just before the update, and says whether there is something to do.
        `on_accepted` is called with the operation that Azure has accepted. Both in any thread; what they raise is
        raised by `Changes.make`.
        """
        self.disk = disk
        self.lun = lun
        self.deadline = deadline
        self.is_due = is_due
        self.on_accepted = on_accepted
        self.since = time.monotonic()
        """A look at the machine that began then or later is new enough."""
        self.is_over = False
        self.was_sent = False
        """Azure has reported that it was made."""
        self.error: Exception | None = None

    def end(self, error: Exception | None = None) -> None:
        self.error = error
        self.is_over = True

    def is_named_in(self, text: str) -> bool:
        """By a full id, a name in quotes or a LUN: a bare name may be a word of the sentence."""
        names = rf"{re.escape(str(self.disk))}(?![\w-]|\.\w)|'{re.escape(self.disk.name)}'"
        lun = rf"|\blun {self.lun}\b" if self.lun is not None else ""
        return re.search(names + lun, text, re.IGNORECASE) is not None


class Changes:
    """Of one machine. Thread-safe; a lock file keeps out the other services of this machine."""

    def __init__(self, compute: Compute, view: MachineView, machine: ResourceId, settings: AzureSettings) -> None:
        self._compute = compute
        self._view = view
        self._machine = machine
        self._attempts = settings.retry_attempts
        self._file = settings.lock_dir / f"changes-{hashlib.sha256(machine.key.encode()).hexdigest()[:16]}.lock"
        self._limit = _MOST_DATA_DISKS
        self._queue: list[Change] = []
        self._announced: dict[str, float] = {}
        self._is_leading = False
        self._changed = threading.Condition()

    def refuse_full(self, disk: ResourceId) -> None:
        """Raises AttachLimit where a look of a moment ago has shown it: those that wait for a place make no calls."""
        machine = self._view.latest(self._view.look_seconds / 4)
        if machine is not None and len(machine.data_disks) >= self._limit and machine.entry(disk) is None:
            raise self.full()

    def announce(self, request_id: str) -> None:
        """A change will be asked for at once: an update that is about to be sent waits for it."""
        with self._changed:
            self._announced[request_id] = time.monotonic()

    def arrived(self, request_id: str) -> None:
        """It is made now, or not at all."""
        with self._changed:
            self._announced.pop(request_id, None)
            self._changed.notify_all()

    def make(self, change: Change) -> bool:
        """Whether Azure has reported the change as made; False: there was nothing to do.

        Raises what Azure refuses it with, CloudUnavailable at the change's deadline, MachineGone.
        """
        with self._changed:
            self._queue.append(change)
            self._changed.notify_all()
        while not self._is_over(change):
            try:
                self._lead(change)
            except Exception as error:
                self._drop(change)
                if change.error is None:
                    change.end(error)
            finally:
                with self._changed:
                    self._is_leading = False
                    self._changed.notify_all()
        if change.error is not None:
            raise change.error
        return change.was_sent

    def _is_over(self, change: Change) -> bool:
        """False: the caller has to send the queue, for itself and for the others."""
        with self._changed:
            while self._is_leading and not change.is_over:
                if not change.deadline.left:
                    is_waiting = change in self._queue
                    if is_waiting:
                        self._queue.remove(change)
                    raise self._late(change) if is_waiting else self._running(change)
                self._changed.wait(change.deadline.left)
            if not change.is_over:
                self._is_leading = True
            return change.is_over

    def _drop(self, change: Change) -> None:
        with self._changed:
            if change in self._queue:
                self._queue.remove(change)

    def _lead(self, leader: Change) -> None:
        """Sends what is in the queue, the leader's change among it."""
        deadline = leader.deadline
        with self._locked(deadline):
            self._gather(deadline)
            machine, batch = self._take(deadline)
            try:
                self._send(self._due(batch, machine), deadline, self._attempts)
            except Exception as error:
                for change in batch:
                    if not change.is_over:
                        change.end(error)
            finally:
                self._view.outdate()

    def _take(self, deadline: Deadline) -> tuple[MachineFacts, list[Change]]:
        """The settled machine, and the changes for which that look is not too old."""
        with self._changed:
            since = max(change.since for change in self._queue)
        machine = self._view.settled(deadline, time.monotonic() - since)
        with self._changed:
            batch = [change for change in self._queue if change.since <= since]
            self._queue = [change for change in self._queue if change.since > since]
        return machine, batch

    def _gather(self, deadline: Deadline) -> None:
        """Waits until an update is allowed, and for more changes: the longer, the fewer updates Azure still takes."""
        pause = self._compute.change_wait()
        if pause > deadline.left:
            return  # it is refused without a call
        until = time.monotonic() + min(pause + _hold_seconds(self._compute.changes_left()), deadline.left / 4)
        announced_until = time.monotonic() + min(_GATHER_SECONDS, deadline.left / 4)
        with self._changed:
            while (now := time.monotonic()) < until or (self._has_announced(now) and now < announced_until):
                self._changed.wait(max(until, announced_until) - now if now >= until else until - now)

    def _has_announced(self, now: float) -> bool:
        self._announced = {id: at for id, at in self._announced.items() if at > now - _ANNOUNCED_SECONDS}
        return bool(self._announced)

    def _send(self, changes: Sequence[Change], deadline: Deadline, attempts: int) -> None:
        if not changes:
            return

        def accepted(operation: str) -> None:
            for change in changes:
                change.on_accepted(operation)

        attached = [(change.disk, change.lun) for change in changes if change.lun is not None]
        detached = [change.disk for change in changes if change.lun is None]
        try:
            self._compute.change(self._machine, attached, detached, deadline.left, accepted)
        except CloudManagerError as error:
            self._view.outdate()
            self._isolate(changes, error, deadline, attempts)
            return
        for change in changes:
            change.was_sent = True
            change.end()

    def _isolate(self, changes: Sequence[Change], error: CloudManagerError, deadline: Deadline, attempts: int) -> None:
        """One that cannot be made does not stop the others: those are sent again without it."""
        if isinstance(error, Throttled):
            if attempts > 1 and self._compute.change_wait() < deadline.left:
                self._send_due(changes, deadline, attempts - 1)
                return
            guilty = list(changes)
        elif self._learned_limit(error):
            self._send_due(changes, deadline, attempts)
            return
        elif len(changes) == 1:
            guilty = list(changes)
        else:
            guilty = [change for change in changes if change.is_named_in(error.detail)]
            if not guilty and isinstance(error, CloudUnavailable):
                guilty = list(changes)
        for change in guilty:
            change.end(error)
        rest = [change for change in changes if change not in guilty]
        if guilty or len(rest) < 2:
            self._send_due(rest, deadline, attempts)
            return
        for half in (rest[: len(rest) // 2], rest[len(rest) // 2 :]):
            self._send_due(half, deadline, attempts)

    def _send_due(self, changes: Sequence[Change], deadline: Deadline, attempts: int) -> None:
        """A part of a refused update may have been made."""
        if changes:
            self._send(self._due(changes, self._view.settled(deadline)), deadline, attempts)

    def _due(self, changes: Sequence[Change], machine: MachineFacts) -> list[Change]:
        """Those that there is something to do for, and as many attaches as the machine takes."""
        due = [change for change in changes if _is_due(change, machine)]
        detached = sum(change.lun is None for change in due)
        attached = [change for change in due if change.lun is not None]
        for change in attached[max(0, self._limit - len(machine.data_disks) + detached) :]:
            change.end(self.full())
        return [change for change in due if not change.is_over]

    def _learned_limit(self, error: CloudManagerError) -> bool:
        """Whether it tells a limit that was not known: how many data disks a machine of this size takes."""
        found = re.search(r"of this size is (\d+)", error.detail) if isinstance(error, AttachLimit) else None
        if found is None or int(found[1]) >= self._limit:
            return False
        self._limit = int(found[1])
        return True

    def full(self) -> AttachLimit:
        """The error of an attach that no place is free for: it passes when a disk is detached."""
        return AttachLimit(
            f"{self._machine.name} has the {self._limit} data disks that a machine of its size takes: release an "
            "export that is not needed, or use a larger size.",
            cloud_code="OperationNotAllowed",
            retriable=True,
        )

    @contextmanager
    def _locked(self, deadline: Deadline) -> Iterator[None]:
        with self._file.open("a") as file:
            if not lock(file.fileno(), deadline.left):
                raise CloudUnavailable(
                    f"For {deadline.seconds:g} s, other disks were being attached to this machine or detached from it; "
                    "Azure makes one such change at a time."
                )
            yield

    def _late(self, change: Change) -> CloudUnavailable:
        return self._view.busy(change.deadline)

    def _running(self, change: Change) -> CloudUnavailable:
        return CloudUnavailable(
            f"Azure has not changed {change.disk.name} on {self._machine.name} within {change.deadline.seconds:g} s; "
            "it goes on, and is looked at again."
        )


def _hold_seconds(left: float) -> float:
    """From nothing, when Azure takes all of 12 updates, to the 15 seconds in which it allows one more."""
    return 15 * (1 - min(12.0, left) / 12) ** 2


def _is_due(change: Change, machine: MachineFacts) -> bool:
    try:
        if change.is_due(machine):
            return True
    except Exception as error:
        change.end(error)
        return False
    change.end()
    return False
