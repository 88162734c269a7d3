"""An image that comes once, from its start to its end."""

import fcntl
import io
import os
import re
import select
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from cloudmanager.client.deploy.ends import Unit, covered
from cloudmanager.client.deploy.errors import DamagedSource, DeployError, MissingTool, SourceError, UnsupportedSource
from cloudmanager.linux.block import SECTOR_BYTES
from cloudmanager.transfer.buffers import Buffer
from cloudmanager.transfer.extents import GRAIN_BYTES, Extent
from cloudmanager.transfer.libnbd import Timeouts
from cloudmanager.transfer.reading import Reader


@dataclass(frozen=True)
class Compression:
    """A format of compressed streams."""

    name: str
    """As `cloudmanager.images` calls it."""
    command: tuple[str, ...]
    package: str

    def program(self) -> tuple[str, ...]:
        """The command, from standard input to standard output. Raises MissingTool."""
        if shutil.which(self.command[0]) is None:
            raise MissingTool(f"The image is compressed with {self.name}: install the package {self.package}.")
        return self.command


_ALL = (
    Compression("gzip", ("gzip", "-dc"), "gzip"),
    Compression("compress", ("gzip", "-dc"), "gzip"),
    Compression("bzip2", ("bzip2", "-dc"), "bzip2"),
    Compression("xz", ("xz", "-dc", "-T0"), "xz-utils"),
    Compression("lzma", ("xz", "-dc", "--format=lzma"), "xz-utils"),
    Compression("lzip", ("xz", "-dc", "--format=lzip"), "xz-utils"),
    Compression("zstd", ("zstd", "-dcq"), "zstd"),
    Compression("lz4", ("lz4", "-dcq"), "lz4"),
    Compression("lzop", ("lzop", "-dc"), "lzop"),
)


def compression_of(name: str) -> Compression | None:
    """None for what is not compressed, or by what nothing here reads."""
    return next((each for each in _ALL if each.name == name), None)


UNIT_BYTES = 8 * 1024 * 1024
"""Each thread holds one in memory."""
_READERS = 64
_PIPE_BYTES = 1024 * 1024
_CHUNK_BYTES = 256 * 1024
_LOOK_AROUND_SECONDS = 0.25
_ERROR_BYTES = 4096


def _nothing() -> None:
    pass


class Stream:
    """Plain bytes, whatever they came as. Threads take turns."""

    def __init__(self, plain: io.FileIO, head: bytes = b"", at_end: Callable[[], None] = _nothing) -> None:
        """`head` was read before; `at_end` raises if the end came too early."""
        self._plain = plain
        self._head = head
        self._at_end = at_end

    def peek(self, length: int, check: Callable[[], None]) -> bytes:
        """The next bytes, which stay to be read."""
        found = bytearray(length)
        count = self.fill(memoryview(found), check)
        self._head = bytes(found[:count]) + self._head
        return bytes(found[:count])

    def fill(self, view: memoryview, check: Callable[[], None]) -> int:
        """As many bytes as there are, or as fit. `check` is called while there are none."""
        done = min(len(self._head), len(view))
        view[:done] = self._head[:done]
        self._head = self._head[done:]
        while done < len(view):
            while not select.select([self._plain], [], [], _LOOK_AROUND_SECONDS)[0]:
                check()
            count = self._plain.readinto(view[done:])
            if not count:
                self._at_end()
                break
            done += count
        return done

    def chunks(self, check: Callable[[], None]) -> Iterator[bytes]:
        """What is left of it. Raises what the early end of it is."""
        view = memoryview(bytearray(_CHUNK_BYTES))
        while count := self.fill(view, check):
            yield bytes(view[:count])


class StreamReader:
    """The unit that its thread has in memory."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._check = timeouts.check
        self._memory = memoryview(bytearray(UNIT_BYTES))
        self._start = 0

    def load(self, stream: Stream, offset: int) -> int:
        """The bytes that are there now; what is missing to a whole grain is zeros."""
        self._start = offset
        length = stream.fill(self._memory, self._check)
        padded = -(-length // GRAIN_BYTES) * GRAIN_BYTES
        self._memory[length:padded] = bytes(padded - length)
        return length

    def is_at_end(self, stream: Stream) -> bool:
        """Whether nothing follows what was loaded."""
        return not stream.peek(1, self._check)

    def last(self, length: int) -> bytes:
        """The last sector of so many bytes."""
        return bytes(self._memory[max(0, length - SECTOR_BYTES) : length])

    def cut(self, length: int, end: int) -> None:
        """What lies between is no part of the image."""
        self._memory[length:end] = bytes(end - length)

    def extents(self, extent: Extent) -> list[Extent]:
        """Zeros are found when the pieces are looked at."""
        return [extent]

    def begin(self, buffer: Buffer, piece: Extent) -> None:
        at = piece.offset - self._start
        buffer.view[: piece.length] = self._memory[at : at + piece.length]

    def finish(self, buffer: Buffer) -> None:
        """Nothing is under way."""


@dataclass(frozen=True)
class StreamSource:
    """A stream, and what is known of where it comes from."""

    stream: Stream
    identity: str = ""
    check_unchanged: Callable[[], None] = _nothing
    fraction: Callable[[], float | None] = field(default=lambda: None)
    """The fraction that was read, where it is known."""
    size_of: Callable[[int, bytes], int] = field(default=lambda length, _last: length)
    """How large the disk is, by the number of bytes that came and the last sector of them. Raises SourceError."""
    readers: int = _READERS
    size_bytes: None = None
    detects_changes: bool = True
    """It is read again from its start, and compared."""

    @contextmanager
    def reader(self, timeouts: Timeouts) -> Iterator[StreamReader]:
        yield StreamReader(timeouts)


class Pump:
    """A thread that writes chunks into a pipe."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        reading, self._writing = os.pipe()
        fcntl.fcntl(self._writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self.file = open(reading, "rb", buffering=0)  # noqa: PTH123, SIM115 # a descriptor, closed by close()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(chunks,), name="pump", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises what ended the chunks early."""
        self._thread.join()
        if isinstance(self._error, DeployError):
            raise self._error
        if self._error is not None:
            raise SourceError(f"The image came to an early end: {self._error}.") from self._error

    def close(self) -> None:
        """The thread ends when it finds nobody at the other end."""
        self.file.close()

    def _run(self, chunks: Iterable[bytes]) -> None:
        try:
            with open(self._writing, "wb", buffering=0) as pipe:  # noqa: PTH123 # a descriptor
                for chunk in chunks:
                    _write_all(pipe, chunk)
        except BrokenPipeError:
            pass
        except Exception as error:
            self._error = error


@contextmanager
def decompressed(
    compression: Compression, compressed: io.FileIO, at_end: Callable[[], None] = _nothing
) -> Iterator[Stream]:
    """What a program makes of a file's bytes, from where they are read next. Raises MissingTool."""
    with tempfile.TemporaryFile() as standard_error:
        program = subprocess.Popen(
            compression.program(),
            stdin=compressed,
            stdout=subprocess.PIPE,
            stderr=standard_error,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for us
        )

        def check_end() -> None:
            at_end()
            if program.wait():
                standard_error.seek(0)
                raise _undecompressed(compression.name, standard_error.read(_ERROR_BYTES).decode(errors="replace"))

        try:
            yield Stream(_widened(program), at_end=check_end)
        finally:
            with suppress(ProcessLookupError):
                program.kill()
            program.wait()
            if program.stdout:
                program.stdout.close()


def _undecompressed(name: str, text: str) -> SourceError:
    """By the first thing that the program says: advice follows it, of many lines (bzip2)."""
    line = next((each for each in text.splitlines() if each.strip()), "it did not say why")
    line = re.sub(r"^(\S*stdin\S* ?: )", "", line.strip().rstrip(";."))
    if "too much memory" in line:
        return UnsupportedSource(
            f"The image cannot be decompressed here: {line}. Decompress it first: `{name} -d --memory=2048MB`."
        )
    return DamagedSource(f"The image cannot be decompressed: {line}. Copy it again from where it came.")


def _widened(program: subprocess.Popen[bytes]) -> io.FileIO:
    output = program.stdout
    if not isinstance(output, io.FileIO):
        raise TypeError("an unbuffered pipe was asked for")
    fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return output


def _write_all(pipe: io.FileIO, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[pipe.write(view) or 0 :]


class StreamSupply:
    """Each unit is in the memory of the reader that took it, and nowhere else."""

    def __init__(self, source: StreamSource, reserve: Callable[[int], None], target_bytes: Callable[[], int]) -> None:
        """`reserve` receives the end of the image so far, and raises if the target is smaller."""
        self._source = source
        self._reserve = reserve
        self._target_bytes = target_bytes
        self._lock = threading.Lock()
        self._next = 0
        self._has_ended = False
        self.size_bytes = 0
        self.doubtful: list[Unit] = []
        """Acknowledged, but perhaps lost with a server: to be looked at before the end."""

    def take(self, reader: Reader) -> Unit | None:
        if not isinstance(reader, StreamReader):
            raise TypeError("units of a stream are in its reader's memory")
        with self._lock:
            if self._has_ended:
                return None
            offset = self._next * UNIT_BYTES
            length = reader.load(self._source.stream, offset)
            self._has_ended = reader.is_at_end(self._source.stream)
            if self._has_ended:
                length = self._end(reader, offset, length)
            if not length:
                return None
            self.size_bytes = -(-(offset + length) // 512) * 512
            self._reserve(self.size_bytes)
            end = covered(self.size_bytes, self._target_bytes())
            unit = Unit(self._next, Extent(offset, end - offset))
            self._next += 1
            return unit

    def _end(self, reader: StreamReader, offset: int, length: int) -> int:
        """How much of the last unit is the disk's: some formats end with a mark of their own."""
        whole = self._source.size_of(offset + length, reader.last(length)) - offset
        reader.cut(whole, length)
        return whole

    def put_back(self, units: Iterable[Unit]) -> None:
        with self._lock:
            self.doubtful.extend(units)
