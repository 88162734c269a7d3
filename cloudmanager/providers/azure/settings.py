"""The settings of an Azure provider."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from cloudmanager.providers._settings import CloudSettings

_PUBLIC_CLOUD = "https://management.azure.com"


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
    ca_file: Path | None = Field(
        None,
        description="Certificates to trust instead of the usual ones, for an endpoint with an authority of its own.",
    )
    metadata_url: str = Field("http://169.254.169.254", description="The metadata server.")
