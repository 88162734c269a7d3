"""One run: is the target free, is there something to go on from, copy, finish, verify."""

import time
from contextlib import suppress
from dataclasses import dataclass

from cloudmanager.client.deploy import checking, finishing
from cloudmanager.client.deploy.copying import Copying
from cloudmanager.client.deploy.errors import ConnectionLost, DeployError, DifferenceFound
from cloudmanager.client.deploy.ledger import Ledger
from cloudmanager.client.deploy.local_target import LocalTarget
from cloudmanager.client.deploy.nbd_ends import NbdTarget
from cloudmanager.client.deploy.progress import Meter, Phase
from cloudmanager.client.deploy.result import Way
from cloudmanager.client.deploy.run import Run
from cloudmanager.client.deploy.sectors import refuse_other_sectors
from cloudmanager.client.deploy.stream import StreamSource
from cloudmanager.client.deploy.stream_supply import StreamSupply
from cloudmanager.client.deploy.units import DiskSupply, Head, Unit
from cloudmanager.client.deploy.ways import Ways
from cloudmanager.transfer.extents import Extent
from cloudmanager.transfer.libnbd import Patience

_LAST_WORDS = Patience(connect_seconds=5.0, stall_seconds=10.0)
"""To note what was done when a run has failed."""


@dataclass(frozen=True)
class Written:
    """What came of it."""

    size_bytes: int
    written_bytes: int
    resumed_bytes: int
    way: Way
    bad_ranges: tuple[Extent, ...] = ()


def write(run: Run) -> Written:
    """Raises DeployError, Stopped. A target that was left incomplete has a journal, and the error says so."""
    is_resumed = checking.can_resume(run)
    if not is_resumed:
        checking.refuse_content(run)
        refuse_other_sectors(run)
    if run.source.size_bytes is not None:
        run.target.reserve(run.source.size_bytes)
    is_blank = not is_resumed and checking.is_blank(run)
    if not is_resumed:
        run.journal.begin(run.target.likeness)
    if run.options.skip_bad:
        run.bad.add(run.journal.bad)
    ledger = Ledger(run.journal, run.bad, believes_journal=run.source.tells_changes)
    try:
        if not is_blank:
            finishing.erase_head(run)
        written = _copy(run, ledger, is_blank=is_blank)
        if run.options.verify:
            _verify(run, ledger, written.size_bytes)
    except BaseException as error:
        _leave(run, ledger, error)
        raise
    run.journal.forget()
    return written


def _copy(run: Run, ledger: Ledger, *, is_blank: bool) -> Written:
    todo, resumed_bytes = _to_write(run)
    supply = _supply(run, todo)
    head = Head()
    ways = _ways(run)
    copying = Copying(
        run.source,
        run.target,
        supply,
        ledger,
        head,
        run.crew,
        run.patience,
        run.options.connections,
        run.options.reconnect_seconds,
        is_blank=is_blank,
        wants_digests=run.options.verify or run.is_stream,
        ways=ways,
    )
    meter = Meter(Phase.WRITING, None if run.is_stream else _content_of(run, todo))
    lost_at: float | None = None
    while True:
        copying.run(lambda: _tell(run, copying, meter))
        try:
            size_bytes = _finish(run, supply, ledger, head, is_blank=is_blank)
            return Written(
                size_bytes,
                ledger.written_bytes,
                resumed_bytes + ledger.skipped_bytes,
                _way(run, ways),
                tuple(run.bad.all()),
            )
        except ConnectionLost as error:
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > run.options.reconnect_seconds:
                raise
            copying.connection_lost(error)


def _finish(run: Run, supply: DiskSupply | StreamSupply, ledger: Ledger, head: Head, *, is_blank: bool) -> int:
    """The size of the image."""
    run.say(Phase.FLUSHING)
    size = run.source.size_bytes or 0
    if isinstance(supply, StreamSupply):
        size = supply.size_bytes
        finishing.look_at_doubtful(run, supply, ledger)
    finishing.finish(run, ledger, head, size, is_blank=is_blank)
    return size


def _ways(run: Run) -> Ways | None:
    if run.through is None or not isinstance(run.target, NbdTarget):
        return None
    return Ways(run.target, run.through)


def _way(run: Run, ways: Ways | None) -> Way:
    if isinstance(run.target, LocalTarget):
        return Way.DIRECT
    return ways.current if ways else Way.NBD


def _to_write(run: Run) -> tuple[list[Unit], int]:
    """The units that no earlier run has written, and how many bytes one has."""
    units = [] if run.source.size_bytes is None else run.units(run.source.size_bytes)
    there = {unit for unit in units if unit.index in run.journal.written and not _must_be_read_again(run, unit)}
    return [unit for unit in units if unit not in there], sum(unit.extent.length for unit in there)


def _must_be_read_again(run: Run, unit: Unit) -> bool:
    """Whether an earlier run has skipped something of it, which this one may not."""
    return not run.options.skip_bad and any(bad.part(*_ends(unit.extent)).length > 0 for bad in run.journal.bad)


def _ends(extent: Extent) -> tuple[int, int]:
    return extent.offset, extent.end


def _supply(run: Run, todo: list[Unit]) -> DiskSupply | StreamSupply:
    if isinstance(run.source, StreamSource):
        return StreamSupply(run.source, run.target.reserve, lambda: run.target.size_bytes)
    return DiskSupply(todo)


def _content_of(run: Run, units: list[Unit]) -> int:
    with run.source.reader(run.patience) as reader:
        extents = (extent for unit in units for extent in reader.extents(unit.extent))
        return sum(extent.length for extent in extents if not extent.is_zero)


def _tell(run: Run, copying: Copying, meter: Meter) -> None:
    fraction = run.source.fraction() if isinstance(run.source, StreamSource) else None
    run.options.progress(meter.read(copying.ledger.done_bytes, fraction, copying.take_remark()))


def _verify(run: Run, ledger: Ledger, size_bytes: int) -> None:
    run.say(Phase.VERIFYING)
    verification = run.verification(run.units(size_bytes), ledger.digests)
    meter = Meter(Phase.VERIFYING, size_bytes)
    try:
        verification.run(lambda: run.options.progress(meter.read(verification.done_bytes)))
    except DifferenceFound:
        with suppress(DeployError):  # emptied it is in any case
            run.journal.begin(run.target.likeness)  # it is not true
            finishing.erase_head(run)
        raise


def _leave(run: Run, ledger: Ledger, error: BaseException) -> None:
    """Notes what was written, so that the next run need not write it again."""
    if not isinstance(error, ConnectionLost):
        with suppress(Exception), run.target.writer(_LAST_WORDS) as writer:
            ledger.commit(writer.flush)
    if isinstance(error, DeployError):
        error.is_resumable = True
