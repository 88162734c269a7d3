"""One run: what its parts share, and what is checked before anything is written."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from cloudmanager.client import sector_size
from cloudmanager.client.deploy.bad_ranges import BadRanges
from cloudmanager.client.deploy.copying import WorkerPool
from cloudmanager.client.deploy.ends import (
    HEAD_BYTES,
    UNIT_BYTES,
    Source,
    Unit,
    covered,
    reading_back,
    units_of,
)
from cloudmanager.client.deploy.errors import (
    DifferenceFound,
    SectorSizeDiffers,
    SourceError,
    TargetNotEmpty,
)
from cloudmanager.client.deploy.journal import Journal
from cloudmanager.client.deploy.local_target import LocalTarget
from cloudmanager.client.deploy.nbd_ends import NbdTarget
from cloudmanager.client.deploy.options import Options, Phase, Progress
from cloudmanager.client.deploy.stream import UNIT_BYTES as STREAM_UNIT_BYTES
from cloudmanager.client.deploy.stream import StreamSource
from cloudmanager.client.deploy.verifying import Verification
from cloudmanager.client.service import UploadEndpoint
from cloudmanager.transfer.buffers import Buffer, is_zero
from cloudmanager.transfer.extents import GRAIN_BYTES, Extent, pieces
from cloudmanager.transfer.libnbd import LONGEST_RANGE, Timeouts
from cloudmanager.transfer.reading import Reader

AnyTarget: TypeAlias = NbdTarget | LocalTarget

EDGE_BYTES = 1024 * 1024
"""Partition tables, the headers of file systems, of RAID, LVM and LUKS, and the copies that are kept at the end."""
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (512, b"EFI PART", "a GPT partition table"),
    (4096, b"EFI PART", "a GPT partition table"),
    (0, b"QFI\xfb", "a qcow2 image"),
    (0, b"KDMV", "a VMDK image"),
    (0, b"LUKS\xba\xbe", "LUKS encryption"),
    (0, b"XFSB", "an XFS file system"),
    (536, b"LVM2", "an LVM physical volume"),
    (1080, b"\x53\xef", "an ext2, ext3 or ext4 file system"),
    (4086, b"SWAPSPACE2", "swap space"),
    (3, b"NTFS", "an NTFS file system"),
    (32769, b"CD001", "an ISO 9660 file system"),
    (65600, b"_BHRfS_M", "a btrfs file system"),
    (510, b"\x55\xaa", "a boot sector or partition table"),
)
_STREAM_HEAD_BYTES = 2 * 1024 * 1024
"""Of a stream. The first partition nearly always begins within them."""
_SAMPLE = 8
"""Units that are compared before a run goes on where an earlier one ended."""


@dataclass(frozen=True)
class Run:
    """An open source, an open target, and what is to happen between them."""

    source: Source
    target: AnyTarget
    journal: Journal
    options: Options
    pool: WorkerPool
    timeouts: Timeouts
    bad: BadRanges = field(default_factory=BadRanges)

    @property
    def is_stream(self) -> bool:
        return self.source.size_bytes is None

    @property
    def is_target_file(self) -> bool:
        """A file of this machine, which becomes a raw image."""
        return isinstance(self.target, LocalTarget) and not self.target.is_device

    @property
    def upload_via(self) -> UploadEndpoint | None:
        """The service, where it may be used for the target's bytes."""
        upload_via, target = self.options.upload_via, self.target
        if upload_via is None or not isinstance(target, NbdTarget) or target.writers == 1:
            return None
        return upload_via if upload_via.protects_as_well_as(target.address) else None

    def units(self, size_bytes: int) -> list[Unit]:
        """All units of an image of that size."""
        return units_of(covered(size_bytes, self.target.size_bytes), unit_bytes_of(self.source))

    def verification(self, units: list[Unit], known: dict[int, bytes]) -> Verification:
        return Verification(
            self.source,
            self.target,
            units,
            known,
            pool=self.pool,
            timeouts=self.timeouts,
            connections=self.options.connections,
            upload_via=self.upload_via,
        )

    def say(self, phase: Phase, remark: str = "") -> None:
        self.options.progress(Progress(phase, remark=remark))


def unit_bytes_of(source: Source) -> int:
    return STREAM_UNIT_BYTES if source.size_bytes is None else UNIT_BYTES


def can_resume(run: Run) -> bool:
    """Whether the journal of an earlier run is about this image and target, and true as far as a sample shows."""
    is_known = run.is_stream or bool(run.source.identity)
    if not (run.options.resume and run.journal.is_begun and is_known):
        return False
    units = {unit.index: unit for unit in run.units(run.source.size_bytes or run.target.size_bytes)}
    sample = [units[index] for index in _spread(sorted(run.journal.written.keys() & units.keys()))]
    try:
        run.verification(sample, run.journal.written).run(lambda: None)
    except DifferenceFound:
        run.journal.left_on = ""  # it is somebody else's now
        run.say(Phase.CHECKING, "The target was changed since the last run, so all of it is written again.")
        return False
    run.say(Phase.CHECKING, "Going on where an earlier run ended.")
    return True


def _spread(indices: list[int]) -> list[int]:
    """The last one, which is the likeliest to be wrong, and some of the others."""
    step = max(1, len(indices) // _SAMPLE)
    return sorted({*indices[::step], *indices[-1:]})


def refuse_content(run: Run) -> None:
    """Raises TargetNotEmpty, unless it may be overwritten."""
    if run.options.overwrite or not run.target.size_bytes:
        return
    with run.target.reader(run.timeouts) as reader, reading_back(run.target):
        content = content_of(reader, run.target.size_bytes)
        is_ours = run.journal.left_on == run.target.likeness and not content_of(reader, HEAD_BYTES)
    if is_ours:
        run.say(Phase.CHECKING, "The target holds what an earlier run has left, and is written anew.")
    elif content is not None:
        raise TargetNotEmpty(
            f"{run.target.name} holds {content}. Name another target, or say that it is to be overwritten."
        )


def content_of(reader: Reader, size_bytes: int) -> str | None:
    """What there is in the first and the last MiB; None if all of it is zero. Nothing in between is looked at."""
    head = Extent(0, min(EDGE_BYTES, size_bytes))
    tail = Extent(max(head.end, size_bytes - EDGE_BYTES), min(EDGE_BYTES, size_bytes - head.end))
    for extent in (head, tail):
        for piece, buffer in _data(reader, extent):
            if not is_zero(buffer.address, piece.length):
                return _named(buffer, piece) if piece.offset == 0 else f"data (bytes {piece.offset} to {piece.end})"
    return None


def _data(reader: Reader, extent: Extent) -> Iterator[tuple[Extent, Buffer]]:
    buffer = Buffer()
    for known in reader.extents(extent) if extent.length > 0 else ():
        for piece in pieces(known) if not known.is_zero else ():
            reader.begin(buffer, piece)
            reader.finish(buffer)
            yield piece, buffer


def _named(buffer: Buffer, piece: Extent) -> str:
    start = bytes(buffer.view[: piece.length])
    for at, magic, name in _SIGNATURES:
        if start.startswith(magic, at):
            return name
    return f"data (bytes 0 to {piece.end})"


def refuse_other_sectors(run: Run) -> None:
    """Raises SectorSizeDiffers, unless it is meant so. Nothing was written yet.

    What has no partition table, and no file system that tells, fits every target. A file has no sectors, and most NBD
    servers do not say which their disk has: then an image for sectors of 4096 bytes is remarked upon.
    """
    if run.options.any_sector_size:
        return
    made_for, has = sector_size.laid_out_for(_reading(run), run.source.size_bytes), run.target.logical_sector_bytes
    if has is None:
        if made_for == {sector_size.LARGE} and not run.is_target_file:
            run.say(
                Phase.CHECKING, "The image is for disks with sectors of 4096 bytes; the target does not say its own."
            )
        return
    if made_for and has not in made_for:
        raise SectorSizeDiffers(
            f"{run.target.name} has sectors of {has} bytes, and the image is partitioned or formatted for sectors of "
            f"{min(made_for)}: nothing would find its partitions there, or mount it. Take an image or a disk of the "
            "other kind, or write it on purpose: --any-sector-size."
        )


def _reading(run: Run) -> sector_size.Read:
    if isinstance(run.source, StreamSource):
        head = run.source.stream.peek(_STREAM_HEAD_BYTES, run.timeouts.check)
        return lambda offset, length: head[offset : offset + length]
    return lambda offset, length: _read(run, offset, length)


def _read(run: Run, offset: int, length: int) -> bytes:
    """Empty where the image is damaged, or at its end."""
    start = offset // GRAIN_BYTES * GRAIN_BYTES
    end = min(-(-(offset + length) // GRAIN_BYTES) * GRAIN_BYTES, run.source.size_bytes or 0)
    found, buffer = bytearray(), Buffer()
    try:
        with run.source.reader(run.timeouts) as reader:
            for piece in pieces(Extent(start, max(0, end - start))):
                reader.begin(buffer, piece)
                reader.finish(buffer)
                found += buffer.view[: piece.length]
    except SourceError:
        return b""
    return bytes(found[offset - start : offset - start + length])


def has_blank_target(run: Run) -> bool:
    """Whether the target says that it reads as zero from end to end."""
    whole = Extent(0, run.target.size_bytes)
    with run.target.writer(run.timeouts) as writer:
        return all(extent.is_zero for part in pieces(whole, LONGEST_RANGE) for extent in writer.extents(part))
