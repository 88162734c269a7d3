"""An image that QEMU reads for us."""

import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import quote

from cloudmanager.client.address import NbdAddress
from cloudmanager.client.deploy.errors import ConnectionLost, DamagedSource, MissingTool, SourceError
from cloudmanager.client.deploy.local_source import OpenFile
from cloudmanager.client.deploy.nbd_ends import NbdConnection, NbdSourceReader
from cloudmanager.confined import (
    Confinement,
    Ended,
    Launch,
    Launched,
    Limits,
    NoAnswer,
    Spawner,
    Stderr,
    Unconfinable,
    executable,
)
from cloudmanager.confined.qemu_nbd import BlockNode, arguments
from cloudmanager.images import Image
from cloudmanager.transfer.libnbd import Timeouts

READERS = 8
_NAME = "image"
_START_SECONDS = 30.0
_END_SECONDS = 5.0

_LIMITS = Limits(memory_bytes=2**30, open_files=256)
"""A hostile image costs its own deployment at the most."""


@dataclass(frozen=True)
class ServedImage:
    """A running server."""

    address: NbdAddress
    stderr: Stderr
    aliases: Mapping[str, str]
    """What it calls the files that it sees, and what we call them."""

    def explained(self, error: Exception) -> SourceError:
        """The end of the server's standard error."""
        lines = self.stderr.read().strip().splitlines()
        line = lines[-1] if lines else str(error)
        for name, title in self.aliases.items():
            line = line.replace(f"'{name}'", f"'{title}'")
        return SourceError(f"The image cannot be read: {line}")


@contextmanager
def served(image: Image, descriptor: int, title: str) -> Iterator[ServedImage]:
    """Ends with the block, and by itself when this process is killed: the last connection ends it then.

    `title` is what a person calls the file. Raises MissingTool, SourceError.
    """
    with ExitStack() as stack:
        try:
            spawner = stack.enter_context(Spawner(is_sandboxed=True, holds=False))
            confinement = stack.enter_context(spawner.confinement())
            stderr = Stderr()
            stack.callback(stderr.close)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            path = stack.enter_context(_socket_path())
            listener.bind(path)
            listener.listen(READERS)
            command = _command(image, confinement, descriptor, title)
            launch = Launch(command, confinement, stderr, listener.fileno(), _LIMITS)
            address = NbdAddress(f"nbd+unix:///{_NAME}?socket={quote(path)}")
            server = ServedImage(address, stderr, dict(confinement.aliases))
            launched = _started(launch, spawner, server)
            stack.callback(launched.finish, _END_SECONDS)
            listener.close()  # only the server has it then: waiting clients notice when the server ends
        except Unconfinable as error:
            raise MissingTool(f"The image cannot be opened safely: {error}") from error
        except OSError as error:
            raise SourceError(f"The image cannot be opened: {error.strerror}.") from error
        yield server


@contextmanager
def _socket_path() -> Iterator[str]:
    """In a private directory, by its descriptor: $TMPDIR may be longer than a socket's path can be (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="cloudmanager-image-") as directory:
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/{os.getpid()}/fd/{descriptor}/socket"
        finally:
            os.close(descriptor)


def _command(image: Image, confinement: Confinement, descriptor: int, title: str) -> list[str]:
    """Raises Unconfinable."""
    filename = confinement.show(descriptor, title)
    node = BlockNode(filename, image.format, driver_options=image.driver_options, size_bytes=image.size_bytes)
    return [executable("qemu-nbd", "qemu-utils"), *arguments(_NAME, READERS, [node], read_only=True)]


def _started(launch: Launch, spawner: Spawner, server: ServedImage) -> Launched:
    try:
        return launch.start(spawner, time.monotonic() + _START_SECONDS)
    except (Ended, NoAnswer) as error:
        raise server.explained(error) from error


@dataclass(frozen=True)
class ServedSource:
    """Its server is ours, so a connection that ends is the end."""

    server: ServedImage
    size_bytes: int
    identity: str
    _check_unchanged: Callable[[], None]
    readers: int = READERS - 1
    """One connection keeps the server alive."""

    @contextmanager
    def reader(self, timeouts: Timeouts) -> Iterator[NbdSourceReader]:
        with _explaining(self.server):
            connection = NbdConnection(self.server.address, timeouts)
        with connection:
            yield NbdSourceReader(connection)

    @property
    def detects_changes(self) -> bool:
        return bool(self.identity)

    def check_unchanged(self) -> None:
        self._check_unchanged()


@contextmanager
def served_source(image: Image, file: OpenFile, timeouts: Timeouts) -> Iterator[ServedSource]:
    """Raises SourceError with QEMU's message, MissingTool."""
    with served(image, file.descriptor, str(file.path)) as server:
        with _explaining(server):
            lasting = NbdConnection(server.address, timeouts)
        with lasting:
            if lasting.size_bytes != image.size_bytes:
                raise DamagedSource(
                    f"QEMU reads the image as {lasting.size_bytes} bytes, and its headers say {image.size_bytes}."
                )
            yield ServedSource(server, lasting.size_bytes, file.identity, file.check_unchanged)


@contextmanager
def _explaining(server: ServedImage) -> Iterator[None]:
    try:
        yield
    except ConnectionLost as error:
        raise server.explained(error) from error
