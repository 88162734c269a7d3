"""An image that QEMU reads for us."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cloudmanager.client.deploy.connection import Connection
from cloudmanager.client.deploy.errors import ConnectionLost, DamagedSource
from cloudmanager.client.deploy.file_source import OpenFile
from cloudmanager.client.deploy.nbd_ends import NbdReader
from cloudmanager.client.deploy.served import READERS, Served, served
from cloudmanager.images import Image
from cloudmanager.transfer.libnbd import Patience


@dataclass(frozen=True)
class ServedSource:
    """Its server is ours, so a connection that ends is the end."""

    server: Served
    size_bytes: int
    identity: str
    _check_unchanged: Callable[[], None]
    readers: int = READERS - 1
    """One connection keeps the server alive."""

    @contextmanager
    def reader(self, patience: Patience) -> Iterator[NbdReader]:
        with _explaining(self.server):
            connection = Connection(self.server.address, patience)
        with connection:
            yield NbdReader(connection)

    @property
    def tells_changes(self) -> bool:
        return bool(self.identity)

    def check_unchanged(self) -> None:
        self._check_unchanged()


@contextmanager
def served_source(image: Image, file: OpenFile, patience: Patience) -> Iterator[ServedSource]:
    """Raises SourceError with QEMU's words, MissingTool."""
    with served(image, file.descriptor, str(file.path)) as server:
        with _explaining(server):
            lasting = Connection(server.address, patience)
        with lasting:
            if lasting.size_bytes != image.size_bytes:
                raise DamagedSource(
                    f"QEMU reads the image as {lasting.size_bytes} bytes, and its headers say {image.size_bytes}."
                )
            yield ServedSource(server, lasting.size_bytes, file.identity, file.check_unchanged)


@contextmanager
def _explaining(server: Served) -> Iterator[None]:
    try:
        yield
    except ConnectionLost as error:
        raise server.explained(error) from error
