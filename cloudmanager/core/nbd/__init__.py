"""The export manager: one qemu-nbd per export."""

from cloudmanager.core.nbd.record import ServerProcess
from cloudmanager.core.nbd.servers import Servers, new_export_name
from cloudmanager.core.nbd.spec import ServerSpec

__all__ = ["ServerProcess", "ServerSpec", "Servers", "new_export_name"]
