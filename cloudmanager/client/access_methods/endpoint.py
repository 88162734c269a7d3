"""The options with which programs connect to an NBD address."""

from typing import Self

from cloudmanager.client.access_methods.errors import AccessFailed
from cloudmanager.client.address import NbdAddress
from cloudmanager.transfer import endpoint


class ProgramEndpoint(endpoint.Endpoint):
    """Where an NBD server listens, as options of QEMU and nbdkit."""

    @classmethod
    def of(cls, address: NbdAddress) -> Self:
        """Raises AccessFailed for what is no NBD address."""
        try:
            return cls.parse(address.uri)
        except ValueError as error:
            raise AccessFailed(str(error)) from error

    def as_block_device(self, tls_object: str = "") -> dict[str, object]:
        """The options of QEMU's `nbd` driver."""
        server: dict[str, str] = {"type": "inet", "host": self.host, "port": str(self.port)}
        if self.socket_path:
            server = {"type": "unix", "path": self.socket_path}
        tls = {"tls-creds": tls_object} if self.is_tls else {}
        if self.is_tls and self.certified_host != self.host:
            tls["tls-hostname"] = self.certified_host  # the certificate does not know our name of the link
        return {"driver": "nbd", "server": server, "export": self.export_name, **tls}

    def as_nbdkit_parameters(self) -> list[str]:
        """Those of nbdkit's plugin `nbd`."""
        server = [f"hostname={self.host}", f"port={self.port}"]
        return [*([f"socket={self.socket_path}"] if self.socket_path else server), f"export={self.export_name}"]
