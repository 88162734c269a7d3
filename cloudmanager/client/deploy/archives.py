"""The one image in an archive: of a tar, which is read from its start to its end, or of a zip, which is not."""

import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO, Protocol, cast

from cloudmanager.client.deploy.errors import DamagedSource, UnsupportedSource
from cloudmanager.images import HEAD_BYTES, recognise
from cloudmanager.images.recognition import ContentGroup, is_text

CHUNK_BYTES = 256 * 1024
_MOST_MEMBERS = 10_000
_NAMED = 6
_HEADERS_BYTES = 16 * 1024 * 1024
_COMPANIONS = (".ovf", ".mf", ".cert", ".nvram", ".vmx", ".vmxf", ".vmsd", ".vbox", ".xml", ".json", ".md5", ".sha256")
"""Files that stand beside an image: descriptions and checksums (DMTF DSP0243 names the first three)."""


class Readable(Protocol):
    """What tarfile wants of a stream."""

    def read(self, length: int, /) -> bytes:
        """Fewer bytes only at the end."""


@dataclass(frozen=True)
class Zipped:
    """The image in a zip."""

    chunks: Iterable[bytes]
    name: str
    """Without directories."""


def refuse_several_in_tar(file: BinaryIO) -> None:
    """Before anything is written, where the archive can be searched. Raises UnsupportedSource, DamagedSource."""
    with _damage(), tarfile.open(fileobj=cast(BinaryIO, _Seekable(file)), mode="r:") as tar:
        _the_one([member.name for member in _files(tar) if not _is_companion(member.name, _head_of(tar, member))])


def tar_chunks(stream: Readable, found: list[str]) -> Iterator[bytes]:
    """The image's bytes, with zeros for the holes of a sparse member. Its name is `found` before.

    Raises UnsupportedSource, at the end if there is another image behind it, DamagedSource.
    """
    bounded = _Bounded(stream)
    with _damage(), tarfile.open(fileobj=bounded, mode="r|", bufsize=CHUNK_BYTES) as tar:  # type: ignore[call-overload]
        for member in _files(tar):
            content = tar.extractfile(member)
            if content is None:
                continue
            bounded.left = None
            head = content.read(HEAD_BYTES)
            is_image = not _is_companion(member.name, head)
            is_wanted = is_image and not found
            if is_image:
                found.append(member.name)
            if is_wanted:
                yield head
            while chunk := content.read(CHUNK_BYTES):
                if is_wanted:
                    yield chunk
            bounded.left = _HEADERS_BYTES
    _the_one(found)
    while stream.read(CHUNK_BYTES):  # a checksum may follow behind the archive
        pass


@contextmanager
def zipped(file: BinaryIO) -> Iterator[Zipped]:
    """Raises UnsupportedSource, DamagedSource."""
    with _damage(), zipfile.ZipFile(file) as archive:
        members = [member for member in archive.infolist()[:_MOST_MEMBERS] if not member.is_dir()]
        locked = [member.filename for member in members if member.flag_bits & 1]
        if locked:
            raise UnsupportedSource(f"The zip archive is encrypted ({_names(locked)}). Unpack it first.")
        with _supported():
            images = [each for each in members if not _is_companion(each.filename, _zip_head(archive, each))]
            _the_one([each.filename for each in images])
            yield Zipped(_zip_chunks(archive, images[0]), PurePosixPath(images[0].filename).name)


@dataclass
class _Bounded:
    """A stream of which only so much is read between the contents of two members: tarfile keeps it in memory."""

    stream: Readable
    left: int | None = _HEADERS_BYTES

    def read(self, length: int, /) -> bytes:
        if self.left is not None:
            self.left -= length
            if self.left < 0:
                raise DamagedSource("The archive has headers larger than any real one's. Unpack it first.")
        return self.stream.read(length)


@dataclass(frozen=True)
class _Seekable:
    """The same for a file: what is read in one piece is a header."""

    file: BinaryIO

    def read(self, length: int = -1, /) -> bytes:
        if not 0 <= length <= _HEADERS_BYTES:
            raise DamagedSource("The archive has headers larger than any real one's. Unpack it first.")
        return self.file.read(length)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


def _files(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for number, member in enumerate(tar):
        if number >= _MOST_MEMBERS:
            raise UnsupportedSource("The archive holds too many files to look for an image in it. Unpack it first.")
        if member.isfile() and member.size:
            yield member


def _head_of(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = tar.extractfile(member)
    return content.read(HEAD_BYTES) if content else b""


def _zip_head(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as content:
        return content.read(HEAD_BYTES)


def _zip_chunks(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    with _damage(), archive.open(member) as content:
        while chunk := content.read(CHUNK_BYTES):
            yield chunk


def _is_companion(name: str, head: bytes) -> bool:
    path = PurePosixPath(name)
    if not head or path.name.startswith("._") or path.suffix.lower() in _COMPANIONS:
        return True
    kind = recognise(head)
    if kind is not None and kind.name == "vmdk-descriptor":
        return False
    return is_text(head) or (kind is not None and kind.group is ContentGroup.OTHER)


def _the_one(names: list[str]) -> None:
    if not names:
        raise UnsupportedSource("The archive holds no image.")
    if len(names) > 1:
        raise UnsupportedSource(
            f"The archive holds {len(names)} images or other files: {_names(names)}. Unpack it, and deploy the one "
            "that is meant."
        )


def _names(names: list[str]) -> str:
    """They are the archive's author's: nothing of them may move a terminal's cursor."""
    shown = ", ".join(ascii(name[:80]) for name in names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown


@contextmanager
def _supported() -> Iterator[None]:
    try:
        yield
    except NotImplementedError as error:
        raise UnsupportedSource(f"The zip archive is compressed in a way that is not read here: {error}.") from error


@contextmanager
def _damage() -> Iterator[None]:
    """What the libraries raise for archives that are not whole. bz2 has an OSError of its own, which has no number."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, ValueError, OverflowError) as error:
        raise _damaged(error) from error
    except (zlib.error, lzma.LZMAError, struct.error) as error:
        raise _damaged(error) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise _damaged(error) from error


def _damaged(error: Exception) -> DamagedSource:
    return DamagedSource(f"The archive is damaged or cut off: {error}. Copy it again from where it came.")
