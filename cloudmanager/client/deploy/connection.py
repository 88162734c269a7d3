"""A connection to an NBD server, with the errors of a deployment."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from cloudmanager.client.certificates import directory_of
from cloudmanager.client.deploy.errors import ConnectionLost, MissingTool
from cloudmanager.transfer import libnbd
from cloudmanager.transfer.libnbd import Patience


class Connection(libnbd.Connection):
    """Raises ConnectionLost, MissingTool, InvalidSetup."""

    missing = MissingTool
    lost = ConnectionLost

    def certificates_for(self, address: libnbd.Address) -> Path | None:
        return directory_of(address)


class Connections:
    """To one server, for threads. One that nobody uses is kept for who comes next: it takes several round trips to
    make one. No more than one, because servers count their clients.
    """

    def __init__(self, address: libnbd.Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._kept: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._keep(None)

    @contextmanager
    def one(self, patience: Patience) -> Iterator[Connection]:
        """Raises ConnectionLost, MissingTool, InvalidSetup. Every request that is begun in the block must end in it."""
        connection = self._take()
        if connection is None:
            connection = Connection(self._address, patience)
        connection.patience = patience
        try:
            yield connection
        except BaseException as error:
            connection.__exit__(type(error), error, None)
            self._keep(None)  # its server may be gone
            raise
        self._keep(connection)

    def _take(self) -> Connection | None:
        with self._lock:
            taken, self._kept = self._kept, None
            return taken

    def _keep(self, connection: Connection | None) -> None:
        """In place of the one that is kept, which ends."""
        with self._lock:
            ended, self._kept = self._kept, connection
        if ended is not None:
            ended.__exit__(None, None, None)
