"""From what a caller names as the image to a source."""

import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias

from cloudmanager.client.address import NbdAddress
from cloudmanager.client.deploy import file_source, web
from cloudmanager.client.deploy.compression import LONGEST_MAGIC, detect
from cloudmanager.client.deploy.ends import Source
from cloudmanager.client.deploy.errors import SourceError
from cloudmanager.client.deploy.file_source import FileSource, OpenFile
from cloudmanager.client.deploy.formats import RAW
from cloudmanager.client.deploy.formats import detect as detect_format
from cloudmanager.client.deploy.nbd_ends import NbdSource
from cloudmanager.client.deploy.served import BlockOptions
from cloudmanager.client.deploy.served_source import served_source
from cloudmanager.client.deploy.stream import Pump, Stream, StreamSource, decompressed
from cloudmanager.transfer.libnbd import Patience

STANDARD_INPUT = "-"
_CHUNK_BYTES = 256 * 1024

SourceLike: TypeAlias = "Path | str | NbdAddress"
"""A file or block device; `-` for standard input; an http or https URL; an NBD address."""


@contextmanager
def opened(source: SourceLike, patience: Patience, source_id: str = "") -> Iterator[Source]:
    """Raises SourceError, MissingTool, ConnectionLost."""
    with ExitStack() as stack:
        yield _opened(source, patience, source_id, stack)


def _opened(source: SourceLike, patience: Patience, source_id: str, stack: ExitStack) -> Source:
    if isinstance(source, NbdAddress):
        return stack.enter_context(NbdSource.opened(source, patience, source_id or source.uri))
    text = str(source)
    if text == STANDARD_INPUT:
        return _standard_input(patience, stack)
    if web.is_url(text):
        return stack.enter_context(web.opened(text, patience))
    return _file(Path(text), patience, stack)


def _standard_input(patience: Patience, stack: ExitStack) -> Source:
    descriptor = sys.stdin.fileno()
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return _file(Path(f"/proc/self/fd/{descriptor}"), patience, stack)
    plain = io.FileIO(descriptor, closefd=False)
    head = _head(plain)
    compression = detect(head)
    if compression is None:
        return _checked(StreamSource(Stream(plain, head)), patience)
    pump = Pump(_chunks(plain, head))
    stack.callback(pump.close)
    stream = stack.enter_context(decompressed(compression, pump.file, pump.check))
    return _checked(StreamSource(stream), patience)


def _file(path: Path, patience: Patience, stack: ExitStack) -> Source:
    file = stack.enter_context(file_source.opened(path))
    if detect(file.fetch(0, LONGEST_MAGIC)) is not None and not path.is_block_device():
        return _compressed_file(file, patience, stack)
    image_format = RAW if path.is_block_device() else detect_format(file.fetch, file.length)
    if image_format == RAW:
        return FileSource(file)
    driver: BlockOptions = {"driver": "file", "filename": f"/proc/self/fd/{file.descriptor}", "read-only": True}
    return stack.enter_context(
        served_source(image_format, driver, file.identity, file.check_unchanged, patience, (file.descriptor,))
    )


def _compressed_file(file: OpenFile, patience: Patience, stack: ExitStack) -> Source:
    compression = detect(file.fetch(0, LONGEST_MAGIC))
    if compression is None:
        raise SourceError(f"{file.path} was changed while it was looked at.")
    os.lseek(file.descriptor, 0, os.SEEK_SET)
    compressed = stack.enter_context(io.FileIO(file.descriptor, closefd=False))
    stream = stack.enter_context(decompressed(compression, compressed))

    def fraction() -> float | None:
        return os.lseek(file.descriptor, 0, os.SEEK_CUR) / file.length  # the program moves the same position

    return _checked(StreamSource(stream, file.identity, file.check_unchanged, fraction), patience)


def _checked(source: StreamSource, patience: Patience) -> StreamSource:
    source.refuse_container(patience.check)
    return source


def _head(plain: io.FileIO) -> bytes:
    head = b""
    while len(head) < LONGEST_MAGIC and (part := plain.read(LONGEST_MAGIC - len(head))):
        head += part
    return head


def _chunks(plain: io.FileIO, head: bytes) -> Iterator[bytes]:
    yield head
    while chunk := plain.read(_CHUNK_BYTES):
        yield chunk
