"""Is the image made for sectors of the target's size? Nothing would find its partitions on the target otherwise."""

from cloudmanager.client import sector_size
from cloudmanager.client.deploy.errors import SectorSizeDiffers, SourceError
from cloudmanager.client.deploy.options import Phase
from cloudmanager.client.deploy.run import Run
from cloudmanager.client.deploy.stream import StreamSource
from cloudmanager.transfer.buffers import Buffer
from cloudmanager.transfer.extents import GRAIN_BYTES, Extent, pieces

_STREAM_HEAD_BYTES = 2 * 1024 * 1024
"""Of a stream. The first partition nearly always begins within them."""


def refuse_other_sectors(run: Run) -> None:
    """Raises SectorSizeDiffers, unless it is meant so. Nothing was written yet.

    What has no partition table, and no file system that tells, fits every target. A file has no sectors, and most NBD
    servers do not say which their disk has: then an image for sectors of 4096 bytes is remarked upon.
    """
    if run.options.any_sector_size:
        return
    made_for, has = sector_size.laid_out_for(_reading(run)), run.target.logical_sector_bytes
    if has is None:
        if made_for == {sector_size.LARGE} and not run.is_target_file:
            run.say(
                Phase.CHECKING, "The image is for disks with sectors of 4096 bytes; the target does not say its own."
            )
        return
    if made_for and has not in made_for:
        raise SectorSizeDiffers(
            f"{run.target.name} has sectors of {has} bytes, and the image is partitioned or formatted for sectors of "
            f"{min(made_for)}: nothing would find its partitions there. Take an image or a disk of the other kind, or "
            "write it on purpose: --any-sector-size."
        )


def _reading(run: Run) -> sector_size.Read:
    if isinstance(run.source, StreamSource):
        head = run.source.stream.peek(_STREAM_HEAD_BYTES, run.patience.check)
        return lambda offset, length: head[offset : offset + length]
    return lambda offset, length: _read(run, offset, length)


def _read(run: Run, offset: int, length: int) -> bytes:
    """Empty where the image is damaged, or at its end."""
    start = offset // GRAIN_BYTES * GRAIN_BYTES
    end = min(-(-(offset + length) // GRAIN_BYTES) * GRAIN_BYTES, run.source.size_bytes or 0)
    found, buffer = bytearray(), Buffer()
    try:
        with run.source.reader(run.patience) as reader:
            for piece in pieces(Extent(start, max(0, end - start))):
                reader.begin(buffer, piece)
                reader.finish(buffer)
                found += buffer.view[: piece.length]
    except SourceError:
        return b""
    return bytes(found[offset - start : offset - start + length])
