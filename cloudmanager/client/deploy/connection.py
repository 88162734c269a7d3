"""A connection to an NBD server, with the errors of a deployment."""

from pathlib import Path

from cloudmanager.client.certificates import directory_of
from cloudmanager.client.deploy.errors import ConnectionLost, MissingTool
from cloudmanager.transfer import libnbd


class Connection(libnbd.Connection):
    """Raises ConnectionLost, MissingTool, InvalidSetup."""

    missing = MissingTool
    lost = ConnectionLost

    def certificates_for(self, address: libnbd.Address) -> Path | None:
        return directory_of(address)
