"""Copies all units, over several connections, and makes lost connections again."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace

from cloudmanager.client.deploy.crew import Crew, Stopped
from cloudmanager.client.deploy.ends import Source, Target, Writer
from cloudmanager.client.deploy.errors import ConnectionLost
from cloudmanager.client.deploy.lane import Lane
from cloudmanager.client.deploy.ledger import Ledger
from cloudmanager.client.deploy.units import Head, Supply, Unit
from cloudmanager.client.deploy.ways import Ways
from cloudmanager.transfer.libnbd import Patience
from cloudmanager.transfer.reading import Reader

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0


@dataclass
class Copying:
    """The part of a deployment in which the bytes move."""

    source: Source
    target: Target
    supply: Supply
    ledger: Ledger
    head: Head
    crew: Crew
    patience: Patience
    connections: int
    reconnect_seconds: float
    is_blank: bool
    """Whether the whole target was found to read as zero."""
    wants_digests: bool
    ways: Ways | None = None
    """Where there is a choice."""
    is_running_out: bool = False
    """Whether the last thread that asked got no unit."""
    _remark: str = ""

    def run(self, tell: Callable[[], None]) -> None:
        """Raises DeployError. Every unit was acknowledged by the target then, but need not be durable."""
        lanes = max(1, min(self.connections, self.source.readers, self.target.writers))
        self.crew.run([_Attempts(self, is_first=number == 0).run for number in range(lanes)], tell)

    def connection_lost(self, error: ConnectionLost) -> None:
        self._remark = f"{error.detail} Trying again."
        self.supply.put_back(self.ledger.lost())

    def take_remark(self) -> str:
        """The last thing that a person should know, once."""
        remark, self._remark = self._remark, ""
        return remark or (self.ways.take_remark() if self.ways else "")

    def writer(self, patience: Patience) -> AbstractContextManager[Writer]:
        return self.ways.writer(patience) if self.ways else self.target.writer(patience)


class _Attempts:
    """One thread. A unit that it began is its own until it is finished."""

    def __init__(self, copying: Copying, *, is_first: bool) -> None:
        self._copying = copying
        self._is_first = is_first
        self._has_connected = False
        self._reader: Reader | None = None
        self._unit: Unit | None = None
        self._lost_at: float | None = None
        self._pause = _FIRST_PAUSE_SECONDS
        self._counted = (0, 0)

    def run(self) -> None:
        with ExitStack() as lasting:
            while True:
                try:
                    with ExitStack() as stack:
                        return self._work(self._open(stack, lasting))
                except ConnectionLost as error:
                    if not (self._has_connected or self._is_first):
                        return None  # the server serves fewer clients; the first lane does it
                    self._take_back_count()
                    self._copying.connection_lost(error)
                    self._wait_or_give_up(error)

    def _open(self, stack: ExitStack, lasting: ExitStack) -> Lane:
        copying = self._copying
        patience = replace(copying.patience, check=self._check_while_connecting)
        if self._reader is None or copying.source.size_bytes is not None:
            # What a stream's reader has in memory cannot be had again.
            keeper = lasting if copying.source.size_bytes is None else stack
            self._reader = keeper.enter_context(copying.source.reader(patience))
        writer = stack.enter_context(copying.writer(patience))
        self._has_connected = True
        return Lane(self._reader, writer, copying.head, is_blank=copying.is_blank, digests=copying.wants_digests)

    def _check_while_connecting(self) -> None:
        """A server without a place for one more client may leave it waiting, and the others may be done first."""
        self._copying.crew.check()
        if not (self._has_connected or self._is_first) and self._copying.is_running_out:
            raise Stopped

    def _work(self, lane: Lane) -> None:
        while self._next_unit(lane):
            self._copy(lane)
            self._lost_at, self._pause = None, _FIRST_PAUSE_SECONDS
            self._copying.ledger.commit_if_due(lane.writer.flush)

    def _next_unit(self, lane: Lane) -> bool:
        self._copying.crew.check()
        if self._unit is None:
            self._unit = self._copying.supply.take(lane.reader)
            self._copying.is_running_out = self._unit is None
        return self._unit is not None

    def _copy(self, lane: Lane) -> None:
        unit, ledger = self._unit, self._copying.ledger
        if unit is None:
            return
        expected = ledger.expected(unit)
        if expected and unit.index and lane.digest(unit) == expected:
            ledger.skip(unit)
        else:
            digests = lane.copy(unit, self._count)
            ledger.finish(unit, digests, self._counted[0])
        self._unit, self._counted = None, (0, 0)

    def _count(self, done_bytes: int, written_bytes: int) -> None:
        self._copying.crew.check()
        self._counted = (self._counted[0] + done_bytes, self._counted[1] + written_bytes)
        self._copying.ledger.count(done_bytes, written_bytes)

    def _take_back_count(self) -> None:
        done, _written = self._counted
        self._copying.ledger.count(-done, 0)
        self._counted = (0, 0)

    def _wait_or_give_up(self, error: ConnectionLost) -> None:
        now = time.monotonic()
        self._lost_at = self._lost_at or now
        if now - self._lost_at >= self._copying.reconnect_seconds:
            raise error
        self._copying.crew.pause(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
