"""An emulated Azure: `with Emulation(directory) as cloud: …`.

Bodies are checked against the schema that azure-mgmt-compute carries, so it needs the extra `azure`.
"""

from cloudmanager.core.errors import MissingExtra

try:
    from cloudmanager.testing.cloud.azure.emulation import AzureEmulation
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("azure", "typing_extensions"):
        raise
    raise MissingExtra(
        "The emulated Azure checks requests with azure-mgmt-compute: pip install 'cloudmanager[azure]'."
    ) from error

Emulation = AzureEmulation

__all__ = ["AzureEmulation", "Emulation"]
