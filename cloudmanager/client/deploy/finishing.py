"""The last steps: what is written is made durable, then the head follows, and what lies beyond the image goes."""

from collections import deque

from cloudmanager.client.deploy.emptiness import EDGE_BYTES
from cloudmanager.client.deploy.ends import Writer
from cloudmanager.client.deploy.errors import TargetError
from cloudmanager.client.deploy.ledger import Ledger
from cloudmanager.client.deploy.local_target import LocalTarget
from cloudmanager.client.deploy.run import Run
from cloudmanager.client.deploy.stream_supply import StreamSupply
from cloudmanager.client.deploy.units import HEAD_BYTES, Head, covered
from cloudmanager.transfer.buffers import Buffer, parts
from cloudmanager.transfer.extents import Extent, pieces
from cloudmanager.transfer.reading import digest


def erase_head(run: Run) -> None:
    """From now on the target is not taken for a system."""
    with run.target.writer(run.patience) as writer:
        writer.zero(Extent(0, min(HEAD_BYTES, run.target.size_bytes)))
        writer.flush()


def finish(run: Run, ledger: Ledger, head: Head, size_bytes: int, *, is_blank: bool) -> None:
    """Raises SourceChanged, ConnectionLost, TargetError."""
    run.source.check_unchanged()
    with run.target.writer(run.patience) as writer:
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
    with run.target.reader(run.patience) as reader:
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
