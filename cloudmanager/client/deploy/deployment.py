"""Writes an image onto a target: see `deploy`."""

import time
import warnings
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Unpack

from cloudmanager.client.deploy import sources
from cloudmanager.client.deploy.bad_ranges import BadRanges, CarefulSource
from cloudmanager.client.deploy.copying import Copying, CopyStopped, WorkerPool
from cloudmanager.client.deploy.ends import HEAD_BYTES, DiskSupply, Head, Unit, Writer, covered, reading_back
from cloudmanager.client.deploy.errors import (
    Cancelled,
    ConnectionLost,
    DeployError,
    DifferenceFound,
    TargetError,
    UnsupportedSource,
)
from cloudmanager.client.deploy.journal import Journal, JournalHeader, Ledger, default_directory
from cloudmanager.client.deploy.local_target import LocalTarget
from cloudmanager.client.deploy.nbd_ends import NbdTarget
from cloudmanager.client.deploy.options import BadRange, DeployOptions, Meter, Options, Phase, Progress, Result, Route
from cloudmanager.client.deploy.route import COMPARISON, RouteChoice
from cloudmanager.client.deploy.run import (
    EDGE_BYTES,
    Run,
    can_resume,
    has_blank_target,
    refuse_content,
    refuse_other_sectors,
    unit_bytes_of,
)
from cloudmanager.client.deploy.sources import SourceLike, TargetLike, refuse_overlap
from cloudmanager.client.deploy.stream import StreamSource, StreamSupply
from cloudmanager.client.service import UploadEndpoint
from cloudmanager.transfer.buffers import Buffer, parts
from cloudmanager.transfer.extents import Extent, pieces
from cloudmanager.transfer.libnbd import Timeouts
from cloudmanager.transfer.reading import digest

_CLOSING_TIMEOUTS = Timeouts(connect_seconds=5.0, stall_seconds=10.0)
"""To note what was done when a run has failed."""
_NO_WAY_AROUND = (
    "This image is read from its start to its end only, because it is packed or comes as a stream: what follows a bad "
    "sector cannot be reached, so --skip-bad does not apply. Copy it with ddrescue, unpack the copy, and deploy that."
)


@dataclass(frozen=True)
class WriteResult:
    """The result of writing the content."""

    size_bytes: int
    written_bytes: int
    resumed_bytes: int
    route: Route
    bad_ranges: tuple[Extent, ...] = ()


def deploy(
    source: SourceLike,
    target: TargetLike,
    *,
    through: UploadEndpoint | None = None,
    **keywords: Unpack[DeployOptions],
) -> Result:
    """Makes the target hold what the image holds; returns when that is durable. The keywords are those of Options.

    An image in a format of its own (qcow2, vmdk, vdi, vhd, vhdx) is written as the disk that it stands for. The first
    MiB is written last. A run that was cut off leaves a journal; the same call goes on where it ended.

    Raises DeployError and its kinds; `is_resumable` says whether the target was left incomplete. `through` is the
    deprecated name of `upload_via`.
    """
    if through is not None:
        warnings.warn("the keyword `through` of deploy() is called `upload_via` now", DeprecationWarning, stacklevel=2)
        keywords["upload_via"] = through
    options = Options(**keywords)
    started = time.monotonic()
    options.progress(Progress(Phase.CHECKING))
    if options.grow:
        from cloudmanager.client.deploy import growing  # noqa: PLC0415 # brings the ways to an NBD address as a file

        growing.check_tools()
    written = _write(source, target, options)
    growth = None
    if options.grow:
        options.progress(Progress(Phase.GROWING))
        growth = growing.grow(target)
    return Result(
        written.size_bytes,
        written.written_bytes,
        written.resumed_bytes,
        time.monotonic() - started,
        is_verified=options.verify,
        route=written.route,
        growth=growth,
        bad_ranges=tuple(BadRange(each.offset, each.length) for each in written.bad_ranges),
    )


def _write(source: SourceLike, target: TargetLike, options: Options) -> WriteResult:
    pool = WorkerPool(options.cancelled)
    timeouts = Timeouts(check=pool.check)
    try:
        with sources.opened(source, timeouts, options, pool.on_stop) as image:
            if image.size_bytes is None and options.skip_bad:
                raise UnsupportedSource(_NO_WAY_AROUND)
            with sources.opened_target(target, timeouts, options.target_id) as disk:
                if isinstance(disk, LocalTarget):
                    refuse_overlap(source, disk)
                name = sources.identity(target, options.target_id)
                heading = JournalHeader(image.identity, name, image.size_bytes, unit_bytes_of(image))
                with Journal(options.journal_directory or default_directory(), heading) as journal:
                    bad = BadRanges()
                    read = image if image.size_bytes is None else CarefulSource(image, bad, options.skip_bad)
                    return write(Run(read, disk, journal, options, pool, timeouts, bad))
    except CopyStopped:
        raise Cancelled("The deployment was cancelled.") from None


def write(run: Run) -> WriteResult:
    """Raises DeployError, CopyStopped. A target that was left incomplete has a journal, and the error says so."""
    is_resumed = can_resume(run)
    if not is_resumed:
        refuse_content(run)
        refuse_other_sectors(run)
    if run.source.size_bytes is not None:
        run.target.reserve(run.source.size_bytes)
    is_blank = not is_resumed and has_blank_target(run)
    if not is_resumed:
        run.journal.begin(run.target.likeness)
    if run.options.skip_bad:
        run.bad.add(run.journal.bad)
    ledger = Ledger(run.journal, run.bad, believes_journal=run.source.detects_changes)
    run.say(Phase.WRITING)
    try:
        if not is_blank:
            erase_head(run)
        written = _copy(run, ledger, is_blank=is_blank)
        if run.options.verify:
            _verify(run, ledger, written.size_bytes)
    except BaseException as error:
        _leave(run, ledger, error)
        raise
    run.journal.forget()
    return written


def _copy(run: Run, ledger: Ledger, *, is_blank: bool) -> WriteResult:
    todo, resumed_bytes = _to_write(run)
    supply = _supply(run, todo)
    head = Head()
    routes = _routes(run)
    copying = Copying(
        run.source,
        run.target,
        supply,
        ledger,
        head,
        run.pool,
        run.timeouts,
        run.options.connections,
        run.options.reconnect_seconds,
        is_blank=is_blank,
        wants_digests=run.options.verify or run.is_stream,
        routes=routes,
    )
    meter = Meter(Phase.WRITING, None if run.is_stream else _content_of(run, todo))
    lost_at: float | None = None
    while True:
        copying.run(lambda: _report(run, copying, meter))
        try:
            size_bytes = _finish(run, supply, ledger, head, is_blank=is_blank)
            return WriteResult(
                size_bytes,
                ledger.written_bytes,
                resumed_bytes + ledger.skipped_bytes,
                _route(run, routes),
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
        look_at_doubtful(run, supply, ledger)
    finish(run, ledger, head, size, is_blank=is_blank)
    return size


def _routes(run: Run) -> RouteChoice | None:
    if run.upload_via is None or not isinstance(run.target, NbdTarget):
        return None
    return RouteChoice(run.target, run.upload_via, COMPARISON)


def _route(run: Run, routes: RouteChoice | None) -> Route:
    if isinstance(run.target, LocalTarget):
        return Route.DIRECT
    return routes.current if routes else Route.NBD


def _to_write(run: Run) -> tuple[list[Unit], int]:
    """The units that no earlier run has written, and how many bytes one has."""
    units = [] if run.source.size_bytes is None else run.units(run.source.size_bytes)
    there = {unit for unit in units if unit.index in run.journal.written and not _must_be_read_again(run, unit)}
    return [unit for unit in units if unit not in there], sum(unit.extent.length for unit in there)


def _must_be_read_again(run: Run, unit: Unit) -> bool:
    """Whether an earlier run has skipped something of it, which this one may not."""
    return not run.options.skip_bad and any(
        bad.part(unit.extent.offset, unit.extent.end).length > 0 for bad in run.journal.bad
    )


def _supply(run: Run, todo: list[Unit]) -> DiskSupply | StreamSupply:
    if isinstance(run.source, StreamSource):
        return StreamSupply(run.source, run.target.reserve, lambda: run.target.size_bytes)
    return DiskSupply(todo)


def _content_of(run: Run, units: list[Unit]) -> int:
    with run.source.reader(run.timeouts) as reader:
        extents = (extent for unit in units for extent in reader.extents(unit.extent))
        return sum(extent.length for extent in extents if not extent.is_zero)


def _report(run: Run, copying: Copying, meter: Meter) -> None:
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
            erase_head(run)
        raise


def _leave(run: Run, ledger: Ledger, error: BaseException) -> None:
    """Notes what was written, so that the next run need not write it again."""
    if not isinstance(error, ConnectionLost):
        with suppress(Exception), run.target.writer(_CLOSING_TIMEOUTS) as writer:
            ledger.commit(writer.flush)
    if isinstance(error, DeployError):
        error.is_resumable = True


def erase_head(run: Run) -> None:
    """Clears the target's first MiB, so that it no longer looks like a system."""
    with run.target.writer(run.timeouts) as writer:
        writer.zero(Extent(0, min(HEAD_BYTES, run.target.size_bytes)))
        writer.flush()


def finish(run: Run, ledger: Ledger, head: Head, size_bytes: int, *, is_blank: bool) -> None:
    """Raises SourceChanged, ConnectionLost, TargetError."""
    run.source.check_unchanged()
    with run.target.writer(run.timeouts) as writer:
        ledger.commit(writer.flush)
        ledger.count(0, _write_head(writer, head))
        if not is_blank:
            _clear_beyond(writer, covered(size_bytes, run.target.size_bytes), run.target.size_bytes)
        writer.flush()
    if isinstance(run.target, LocalTarget):
        run.target.reread_partitions()


def look_at_doubtful(run: Run, supply: StreamSupply, ledger: Ledger) -> None:
    """What a server acknowledged before it went away should still be there. Raises TargetError."""
    free: deque[Buffer] = deque()
    with run.target.reader(run.timeouts) as reader, reading_back(run.target):
        for unit in supply.doubtful:
            if digest(reader, unit.extent, free) != ledger.digests[unit.index]:
                raise TargetError(
                    f"{run.target.name} lost what it had acknowledged, and a stream cannot be read again. "
                    "Start the deployment again with the same stream."
                )
            ledger.finish(unit, ledger.digests[unit.index], 0)
    supply.doubtful.clear()


def _write_head(writer: Writer, head: Head) -> int:
    """It was zero until now. Returns how many bytes were sent."""
    sent = 0
    for piece in pieces(Extent(0, head.length)):
        buffer = Buffer()
        buffer.view[: piece.length] = head.part(piece)
        for part in parts(buffer, piece):
            if not part.is_zero:
                writer.begin(buffer, part.offset - piece.offset, part)
                sent += part.length
    writer.settle()
    return sent


def _clear_beyond(writer: Writer, start: int, end: int) -> None:
    """An old backup of a partition table at the end of the target would contradict the image's own."""
    if start < end:
        writer.trim(Extent(start, end - start))
        writer.settle()
        edge = max(start, end - EDGE_BYTES)
        writer.zero(Extent(edge, end - edge))
        writer.settle()
