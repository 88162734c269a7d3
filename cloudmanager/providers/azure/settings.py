"""The settings of an Azure provider."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from cloudmanager.providers._settings import CloudSettings

_VERSION = r"^(\d{4}-\d\d-\d\d(-preview)?)?$"
_PUBLIC_CLOUD = "https://management.azure.com"

_OLDEST_VERSION = "2024-03-01"
"""The first with attachDetachDataDisks:
https://github.com/Azure/azure-rest-api-specs/tree/main/specification/compute/resource-manager/Microsoft.Compute"""


def _new_enough(version: str) -> str:
    if version and version < _OLDEST_VERSION:
        raise ValueError(f"attach and detach of data disks exist since {_OLDEST_VERSION}: write that or a later one")
    return version


def _https(url: str) -> str:
    if not url.startswith("https://"):
        raise ValueError('write it as "https://…": a token is never sent over plain http')
    return url.rstrip("/")


class AzureSettings(CloudSettings):
    """Everything is found out from the metadata server where it is left empty."""

    subscription_id: str = Field("", description="Subscription of the disks and of this machine. Empty: found out.")
    resource_group: str = Field(
        "",
        description="Resource group of disks that are named without one. Empty: a name alone means the only disk that "
        "has it in the groups of find_in.",
    )
    vm: str = Field(
        "",
        description="This machine: its name, `group/name` or full resource id. Empty: the metadata server is asked.",
    )
    location: str = Field(
        "",
        description='Region and zone of this machine, "westeurope-1", or "westeurope" where it has no zone. '
        "Empty: found out.",
    )
    find_in: tuple[str, ...] = Field(
        (), description="Resource groups whose disks are listed. Empty: those of the whole subscription."
    )
    client_id: str = Field(
        "", description="Client id of a user-assigned managed identity. Empty: whatever DefaultAzureCredential finds."
    )
    restored_sku: str = Field(
        "StandardSSD_LRS", description="Kind of the disks that are made from snapshots, for example Premium_LRS."
    )
    endpoint: Annotated[str, AfterValidator(_https)] = Field(
        _PUBLIC_CLOUD, description="Resource Manager. Another one in the sovereign clouds, and for an emulator."
    )
    api_version: Annotated[str, AfterValidator(_new_enough)] = Field(
        "",
        pattern=_VERSION,
        description="Version of the API for virtual machines, where a cloud does not know the SDK's own: 2024-03-01 or "
        "later.",
        json_schema_extra={"example": "2024-07-01"},
    )
    disk_api_version: str = Field(
        "",
        pattern=_VERSION,
        description="Version of the API for disks and snapshots, which has versions of its own: 2023-10-02 or later.",
        json_schema_extra={"example": "2024-03-02"},
    )
    ca_file: Path | None = Field(
        None,
        description="Certificates to trust instead of the usual ones, for an endpoint with an authority of its own.",
    )
    metadata_url: str = Field("http://169.254.169.254", description="The metadata server.")
