"""The export manager: one server for each export."""

from cloudmanager.core.nbd.engine import ServerSpec
from cloudmanager.core.nbd.servers import Servers

__all__ = ["ServerSpec", "Servers"]
