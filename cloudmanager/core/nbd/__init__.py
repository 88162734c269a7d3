"""The export manager: one qemu-nbd per export."""

from cloudmanager.core.nbd.adoption import ServerProcess
from cloudmanager.core.nbd.engine import ServerSpec
from cloudmanager.core.nbd.servers import Servers, new_export_name

__all__ = ["ServerProcess", "ServerSpec", "Servers", "new_export_name"]
