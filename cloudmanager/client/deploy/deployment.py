"""Writes an image onto a target: see `deploy`."""

import time
from typing import Unpack

from cloudmanager.client.deploy import sources
from cloudmanager.client.deploy.bad_ranges import BadRanges, CarefulSource
from cloudmanager.client.deploy.copying import Stopped, WorkerPool
from cloudmanager.client.deploy.errors import Cancelled
from cloudmanager.client.deploy.journal import Journal, JournalHeader, default_directory
from cloudmanager.client.deploy.local_target import LocalTarget
from cloudmanager.client.deploy.options import BadRange, DeployOptions, Options, Phase, Progress, Result
from cloudmanager.client.deploy.run import Run, unit_bytes_of
from cloudmanager.client.deploy.sources import SourceLike, TargetLike, refuse_overlap
from cloudmanager.client.deploy.writing import Written, write
from cloudmanager.transfer.libnbd import Patience


def deploy(source: SourceLike, target: TargetLike, **keywords: Unpack[DeployOptions]) -> Result:
    """Makes the target hold what the image holds; returns when that is durable. The keywords are those of Options.

    An image in a format of its own (qcow2, vmdk, vdi, vhd, vhdx) is written as the disk that it stands for. The first
    MiB is written last. A run that was cut off leaves a journal; the same call goes on where it ended.

    Raises DeployError and its kinds; `is_resumable` says whether the target was left incomplete.
    """
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


def _write(source: SourceLike, target: TargetLike, options: Options) -> Written:
    pool = WorkerPool(options.cancelled)
    patience = Patience(check=pool.check)
    try:
        with (
            sources.opened(source, patience, options, pool.on_stop) as image,
            sources.opened_target(target, patience, options.target_id) as disk,
        ):
            if isinstance(disk, LocalTarget):
                refuse_overlap(source, disk)
            name = sources.identity(target, options.target_id)
            heading = JournalHeader(image.identity, name, image.size_bytes, unit_bytes_of(image))
            with Journal(options.journal_directory or default_directory(), heading) as journal:
                bad = BadRanges()
                read = image if image.size_bytes is None else CarefulSource(image, bad, options.skip_bad)
                return write(Run(read, disk, journal, options, pool, patience, bad))
    except Stopped:
        raise Cancelled("The deployment was cancelled.") from None
