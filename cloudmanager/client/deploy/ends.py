"""What a source and a target are to the copying between them."""

from contextlib import AbstractContextManager
from typing import Protocol

from cloudmanager.transfer.buffers import Buffer
from cloudmanager.transfer.extents import Extent
from cloudmanager.transfer.libnbd import Patience
from cloudmanager.transfer.reading import Reader


class Writer(Protocol):
    """One thread's access to a target."""

    def extents(self, extent: Extent) -> list[Extent]:
        """What the target holds now."""

    def begin(self, buffer: Buffer, at: int, piece: Extent) -> None:
        """Starts to write the piece, whose bytes are at `at` in the buffer; counts itself in `buffer.writes`."""

    def reclaim(self) -> Buffer:
        """Waits for a buffer whose writes are all done."""

    def settle(self) -> list[Buffer]:
        """Waits for all of them."""

    def zero(self, extent: Extent) -> None:
        """Makes a range read as zero, with holes where the target can."""

    def trim(self, extent: Extent) -> None:
        """Tells the target that a range is of no use, if it wants to know."""

    def flush(self) -> None:
        """What was written, here and by the other writers, survives a power cut."""


class Source(Protocol):
    """An image. Readers are made for each thread."""

    @property
    def size_bytes(self) -> int | None:
        """A multiple of 512. None: a stream."""

    @property
    def identity(self) -> str:
        """Changes when the content does, as far as can be known; empty when nothing is known."""

    @property
    def tells_changes(self) -> bool:
        """Whether a change would show, in the identity or in `check_unchanged`."""

    @property
    def readers(self) -> int:
        """As many may read beside each other."""

    def reader(self, patience: Patience) -> AbstractContextManager[Reader]: ...

    def check_unchanged(self) -> None:
        """Raises SourceChanged."""


class Target(Protocol):
    """Where the image goes."""

    @property
    def name(self) -> str:
        """As a person knows it."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def logical_sector_bytes(self) -> int | None:
        """None: not known, or there are none."""

    @property
    def likeness(self) -> str:
        """What tells it, as far as possible, from another one of its name."""

    @property
    def writers(self) -> int:
        """As many may write beside each other."""

    def reserve(self, size_bytes: int) -> None:
        """Makes room where that is possible. Raises TargetTooSmall."""

    def writer(self, patience: Patience) -> AbstractContextManager[Writer]: ...

    def reader(self, patience: Patience) -> AbstractContextManager[Reader]: ...
