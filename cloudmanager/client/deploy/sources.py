"""From what a caller names as the image to a source: its bytes are looked at, and unpacked as often as needed."""

import io
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import BinaryIO, TypeAlias, cast
from urllib.parse import unquote, urlsplit, urlunsplit

from cloudmanager import images
from cloudmanager.client import network
from cloudmanager.client.address import NbdAddress
from cloudmanager.client.deploy import archives, completeness, local_source, local_target, web
from cloudmanager.client.deploy.ends import Source
from cloudmanager.client.deploy.errors import DamagedSource, SourceError, TargetInUse, UnsafeSource, UnsupportedSource
from cloudmanager.client.deploy.local_source import FileSource, OpenFile
from cloudmanager.client.deploy.local_target import LocalTarget
from cloudmanager.client.deploy.nbd_ends import NbdSource, NbdTarget
from cloudmanager.client.deploy.options import Format, Options
from cloudmanager.client.deploy.served_source import served_source
from cloudmanager.client.deploy.spool import named, spooled
from cloudmanager.client.deploy.stream import Compression, Pump, Stream, StreamSource, compression_of, decompressed
from cloudmanager.client.deploy.web import Received, WebFile, WebImage, WebSource
from cloudmanager.client.deploy.web_server import WebServer
from cloudmanager.images.recognition import ContentGroup, FileKind
from cloudmanager.transfer.libnbd import Timeouts

STANDARD_INPUT = "-"
_MOST_LAYERS = 4
"""An image in a tar in a gzip file has two."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_TARS = ("tar", "ova")
_PACKED = (".gz", ".z", ".bz2", ".xz", ".lzma", ".lz", ".zst", ".lz4", ".lzo")
_ON_PURPOSE = "To deploy its bytes as they are, say so: --format raw."

SourceLike: TypeAlias = "Path | str | NbdAddress"
"""A file or block device; `-` for standard input; an http or https URL; an NBD address."""


@contextmanager
def opened(
    source: SourceLike,
    timeouts: Timeouts,
    options: Options | None = None,
    on_stop: Callable[[Callable[[], None]], None] = lambda _wake: None,
) -> Iterator[Source]:
    """`on_stop` is given what wakes threads that wait for a web server.

    Raises SourceError, MissingTool, ConnectionLost.
    """
    with ExitStack() as stack, _translated(source):
        yield _Opening(timeouts, options or Options(), stack, on_stop).source(source)


@dataclass(frozen=True)
class _Origin:
    """What is known of where a stream comes from."""

    identity: str = ""
    check_unchanged: Callable[[], None] = lambda: None
    fraction: Callable[[], float | None] = lambda: None
    size_bytes: int | None = None
    """Of what is not unpacked yet."""
    layers: int = 0
    name: Callable[[], str] = lambda: ""
    """A file's, here, on a web server or in an archive, as soon as the first bytes have come."""

    def raw_name(self) -> str:
        """Without what says how it is packed."""
        name = PurePath(self.name())
        return name.stem if self.layers and name.suffix.lower() in _PACKED else name.name

    def unpacked(self) -> "_Origin":
        """Raises UnsupportedSource."""
        if self.layers == _MOST_LAYERS:
            raise UnsupportedSource(f"The image is packed more than {_MOST_LAYERS} times. Unpack it first.")
        return replace(self, size_bytes=None, layers=self.layers + 1)

    def member(self, name: Callable[[], str]) -> "_Origin":
        """Of an archive. Raises UnsupportedSource."""
        return replace(self.unpacked(), name=name)


@dataclass(frozen=True)
class _Opening:
    """What it takes to open a source."""

    timeouts: Timeouts
    options: Options
    stack: ExitStack
    on_stop: Callable[[Callable[[], None]], None]

    def source(self, source: SourceLike) -> Source:
        if isinstance(source, NbdAddress):
            identity = self.options.source_id or source.uri
            return self.stack.enter_context(NbdSource.opened(source, self.timeouts, identity))
        text = str(source)
        if text == STANDARD_INPUT:
            return self._standard_input()
        if web.is_url(text):
            return self._web(text)
        if _SCHEME.match(text) and not Path(text).exists():
            raise SourceError(f"{network.without_secrets(text)} is of a kind that is not read: http and https are.")
        return self._path(Path(text))

    @property
    def _is_raw(self) -> bool:
        return self.options.image_format is Format.RAW

    def _standard_input(self) -> Source:
        descriptor = sys.stdin.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return self._path(Path(f"/proc/self/fd/{descriptor}"))
        return self._stream(Stream(io.FileIO(descriptor, closefd=False)), _Origin())

    def _web(self, url: str) -> Source:
        server = WebServer(url, self.timeouts.check, self.options.reconnect_seconds)
        self.stack.callback(server.close)
        self.on_stop(server.end)
        image = WebImage(server, server.look())
        name = PurePath(unquote(urlsplit(url).path)).name
        whole = self._whole(image)
        if whole is not None and whole.format == "raw" and not self._is_raw:
            images.refuse_raw_by_name(name, image.resource.head, is_whole=True)
        if whole is not None and whole.format in ("raw", "vpc"):
            return WebSource(image, min(whole.size_bytes, image.resource.length or 0))
        received = Received(image)
        pump = self._pumped(received)
        stream = Stream(pump.file, at_end=pump.check)
        origin = _Origin(
            image.identity, image.check_unchanged, received.fraction, image.resource.length, name=lambda: name
        )
        return self._stream(stream, origin) if whole is None else self._spooled(stream, origin)

    def _whole(self, image: WebImage) -> images.Image | None:
        """The image, if it can be read as it is there. What is wrong with another one is found before it is fetched.

        None where it has to be unpacked or stored first, and where it can be read from its start only.
        """
        head, length = image.resource.head, image.resource.length
        if not image.resource.has_ranges or not length:
            return None
        if self._is_raw:
            return images.Image("raw", length)
        file = cast(BinaryIO, WebFile(image, length))
        kind = images.recognise(head[: images.HEAD_BYTES], length)
        if kind is None:
            return images.inspect(file, check_tables=False)
        if kind.group is ContentGroup.COMPRESSED:
            completeness.refuse_without_end(kind.name, WebFile(image, length).fetch, length)
        if kind.group is ContentGroup.IMAGE:
            images.inspect(file, check_tables=False)
            with suppress(images.UnreasonableImage):  # by a slow network: what is stored is looked at again
                images.inspect(file)
        return None

    def _path(self, path: Path) -> Source:
        file = self.stack.enter_context(local_source.opened(path))
        if self._is_raw or path.is_block_device():
            return FileSource(file)
        return self._file(file, 0)

    def _file(self, file: OpenFile, layers: int) -> Source:
        """A file that can be read anywhere, and again."""
        kind = images.recognise(file.fetch(0, images.HEAD_BYTES), file.length)
        origin = _Origin(
            file.identity, file.check_unchanged, _read_so_far(file), file.length, layers, lambda: file.path.name
        )
        compression = compression_of(kind.name) if kind else None
        if kind and (compression or kind.name in _TARS):
            return self._packed_file(file, compression, origin)
        if kind and kind.name == "zip":
            zipped = self.stack.enter_context(archives.zipped(_file_object(file)))
            pump = self._pumped(zipped.chunks)
            return self._stream(Stream(pump.file, at_end=pump.check), origin.member(lambda: zipped.name))
        image = images.inspect(file.descriptor, path=file.path)
        if image.format == "raw":
            return FileSource(file)
        return self.stack.enter_context(served_source(image, file, self.timeouts))

    def _packed_file(self, file: OpenFile, compression: Compression | None, origin: _Origin) -> Source:
        """What is in it is read from the descriptor's position on."""
        if compression is None:
            archives.refuse_several_in_tar(_file_object(file))
        else:
            completeness.refuse_incomplete(compression.name, file.fetch, file.length)
        os.lseek(file.descriptor, 0, os.SEEK_SET)
        packed = self.stack.enter_context(io.FileIO(file.descriptor, closefd=False))
        if compression is None:
            return self._untarred(Stream(packed), origin)
        stream = self.stack.enter_context(decompressed(compression, packed))
        return self._stream(stream, origin.unpacked())

    def _stream(self, stream: Stream, origin: _Origin) -> Source:
        """Bytes that come once."""
        head = stream.peek(images.HEAD_BYTES, self.timeouts.check)
        if not head:
            raise DamagedSource("The image is empty. Check that whatever wrote it has finished.")
        kind = None if self._is_raw else images.recognise(head, origin.size_bytes)
        if kind is None:
            if not self._is_raw:
                images.refuse_raw_by_name(origin.raw_name(), head, is_whole=False)
            size_of = _size_of_all if self._is_raw else _size_with(head, origin.raw_name())
            return StreamSource(stream, origin.identity, origin.check_unchanged, origin.fraction, size_of)
        compression = compression_of(kind.name)
        if compression is not None:
            pump = self._pumped(stream.chunks(self.timeouts.check))
            inner = self.stack.enter_context(decompressed(compression, pump.file, pump.check))
            return self._stream(inner, origin.unpacked())
        if kind.name in _TARS:
            return self._untarred(stream, origin)
        if kind.name == "zip" or kind.group is ContentGroup.IMAGE:
            return self._spooled(stream, origin)
        raise _no_disk(kind)

    def _untarred(self, stream: Stream, origin: _Origin) -> Source:
        names: list[str] = []
        pump = self._pumped(archives.tar_chunks(_Readable(stream, self.timeouts.check), names))
        return self._stream(Stream(pump.file, at_end=pump.check), origin.member(lambda: names[0]))

    def _spooled(self, stream: Stream, origin: _Origin) -> Source:
        def fill(view: memoryview) -> int:
            return stream.fill(view, self.timeouts.check)

        made = spooled(fill, origin.size_bytes, self.options.progress)
        with named(self.stack.enter_context(made)) as descriptor:
            self.stack.callback(os.close, descriptor)
            length = os.lseek(descriptor, 0, os.SEEK_END)
            path = Path(f"/proc/self/fd/{descriptor}")
            file = OpenFile(path, descriptor, length, origin.identity, origin.check_unchanged)
            return self._file(file, origin.layers)

    def _pumped(self, chunks: Iterable[bytes]) -> Pump:
        pump = Pump(chunks)
        self.stack.callback(pump.close)
        return pump


@dataclass(frozen=True)
class _Readable:
    """A stream, as tarfile reads it."""

    stream: Stream
    check: Callable[[], None]

    def read(self, length: int, /) -> bytes:
        found = bytearray(length)
        count = self.stream.fill(memoryview(found), self.check)
        return bytes(memoryview(found)[:count])


@dataclass
class _Ends:
    head: bytes
    last: bytes
    length: int
    _position: int = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = self.length if whence == os.SEEK_END else offset
        return self._position

    def read(self, length: int) -> bytes:
        before_last = self.length - len(self.last)
        if self._position >= before_last:
            start = self._position - before_last
            return self.last[start : start + length]
        return self.head[self._position : self._position + length]


def _ends(head: bytes, last: bytes, length: int) -> BinaryIO:
    """A file of which only the start and the end are known, for callers that read nothing else."""
    return cast(BinaryIO, _Ends(head, last, length))


def _size_of_all(length: int, last: bytes) -> int:
    del last
    return length


def _size_with(head: bytes, name: str) -> Callable[[int, bytes], int]:
    def size_of(length: int, last: bytes) -> int:
        """Of a stream that was taken for a raw disk by its start. A fixed VHD is one with a footer."""
        image = images.inspect(_ends(head, last, length))
        if image.format not in ("raw", "vpc"):
            raise UnsupportedSource(
                f"The stream was an image of the format {image.format}, which only its end tells. Save it to a file, "
                "and deploy that."
            )
        if image.format == "raw":
            images.refuse_raw_by_name(name, head, is_whole=True)
        return length if image.format == "raw" else image.size_bytes

    return size_of


def _file_object(file: OpenFile) -> io.BufferedReader:
    """From its start."""
    os.lseek(file.descriptor, 0, os.SEEK_SET)
    return io.BufferedReader(io.FileIO(file.descriptor, closefd=False))


def _read_so_far(file: OpenFile) -> Callable[[], float | None]:
    """A program that was given the descriptor moves the same position."""
    return lambda: min(1.0, os.lseek(file.descriptor, 0, os.SEEK_CUR) / file.length)


def _no_disk(kind: FileKind) -> UnsupportedSource:
    return UnsupportedSource(f"This is {kind.description}, which is no disk and cannot be unpacked here. {_ON_PURPOSE}")


@contextmanager
def _translated(source: SourceLike) -> Iterator[None]:
    """What is wrong with the image, as the errors of a deployment, with the image's name."""
    try:
        yield
    except images.ImageProblem as problem:
        kind = next(ours for theirs, ours in _ERRORS if isinstance(problem, theirs))
        advice = f" {_ON_PURPOSE}" if isinstance(problem, images.NotADisk) else ""
        raise kind(f"{_name(source)}: {problem.detail}{advice}") from problem
    except SourceError as error:
        if not isinstance(source, NbdAddress):
            error.name(_name(source))
        raise


def _name(source: SourceLike) -> str:
    return "standard input" if str(source) == STANDARD_INPUT else network.without_secrets(str(source))


_ERRORS: tuple[tuple[type[images.ImageProblem], type[SourceError]], ...] = (
    (images.NotADisk, UnsupportedSource),
    (images.UnsafeImage, UnsafeSource),
    (images.UnsupportedImage, UnsupportedSource),
    (images.DamagedImage, DamagedSource),
    (images.EmptyImage, DamagedSource),
    (images.ImageProblem, SourceError),
)


_Identity = tuple[str, int, int]


def refuse_overlap(source: SourceLike, target: LocalTarget) -> None:
    """Raises TargetInUse."""
    status = _status(source)
    if status is None:
        return
    image, disk = _lies_in(status), _lies_in(os.fstat(target.descriptor))
    if image[0] in disk or disk[0] in image:
        raise TargetInUse(f"{target.name} is where the image is read from. Name another target, or copy the image.")


def _status(source: SourceLike) -> os.stat_result | None:
    """Of a source on this machine."""
    if isinstance(source, NbdAddress) or web.is_url(str(source)):
        return None
    return os.fstat(sys.stdin.fileno()) if str(source) == STANDARD_INPUT else Path(source).stat()


def _lies_in(status: os.stat_result) -> list[_Identity]:
    """A file or device, and what its bytes are part of: the partition's disk, the file behind a loop device."""
    if not stat.S_ISBLK(status.st_mode):
        return [("file", status.st_dev, status.st_ino)]
    device = Path(f"/sys/dev/block/{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}").resolve()
    disk = device.parent if (device / "partition").exists() else device
    found = [_device(each) for each in dict.fromkeys((device, disk))]
    with suppress(OSError):  # it is no loop device, or its file has no name any more
        behind = Path((disk / "loop" / "backing_file").read_text().rstrip("\n")).stat()
        found.append(("file", behind.st_dev, behind.st_ino))
    return found


def _device(directory: Path) -> _Identity:
    major, minor = (directory / "dev").read_text().split(":")
    return ("device", int(major), int(minor))


TargetLike: TypeAlias = "Path | str | NbdAddress"
"""A block device, a file, which is made if there is none, or an NBD address."""


@contextmanager
def opened_target(target: TargetLike, timeouts: Timeouts, target_id: str = "") -> Iterator[NbdTarget | LocalTarget]:
    """Raises TargetError, ConnectionLost, MissingTool."""
    if isinstance(target, NbdAddress):
        with NbdTarget.opened(target, timeouts, target_id or _without_query(target.uri)) as remote:
            yield remote
        return
    with local_target.opened(Path(target)) as local:
        yield local


def identity(target: TargetLike, target_id: str) -> str:
    """What a journal knows it by."""
    if target_id:
        return target_id
    return target.uri if isinstance(target, NbdAddress) else str(Path(target).resolve())


def _without_query(uri: str) -> str:
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(query="")) if parts.netloc else uri
