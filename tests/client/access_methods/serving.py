"""An NBD address for an image, from a real server."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

from cloudmanager.client.address import Credentials, NbdAddress
from cloudmanager.core.model import Access
from tests.core.nbd.exporter import Exporter, Served, device, wait_gone


@dataclass
class Serving:
    exporter: Exporter
    certificates: Path | None = None
    """The client's."""
    _served: dict[str, Served] = field(default_factory=dict)

    def address(self, image: Path, access: Access = Access.READ_ONLY) -> NbdAddress:
        disk = device(image)
        served = self.exporter.export(disk, access)
        self._served[served.uri] = served
        credentials, is_writable = self._credentials(served), access is not Access.READ_ONLY
        return NbdAddress(served.uri, credentials, disk.size_bytes, is_writable, self.certificates)

    def kill(self, address: NbdAddress) -> None:
        """As a crash would."""
        pid = self._served[address.uri].pid
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)

    def _credentials(self, served: Served) -> Credentials | None:
        found = self.exporter.servers.credentials(served.id)
        return Credentials(found.username, found.key) if found else None
