"""The settings of `[providers.NAME]` with `type = "aws"`."""

import re
from typing import Self

from pydantic import Field, model_validator

from cloudmanager.providers._settings import CloudSettings

_REGION = re.compile(r"[a-z]+(?:-[a-z]+)+-\d+")


def region_of(zone: str) -> str:
    """`us-east-1` of `us-east-1a`, `us-west-2` of the local zone `us-west-2-lax-1a`; empty where there is none."""
    match = _REGION.match(zone)
    return match[0] if match and match[0] != zone else ""


class AwsSettings(CloudSettings):
    """Credentials are boto3's business: an instance role, a profile, or the environment."""

    instance_id: str = Field(
        "",
        pattern=r"^(|i-[0-9a-f]{8}|i-[0-9a-f]{17})$",
        description="This machine's instance id. Empty: ask the instance metadata service (IMDSv2).",
        json_schema_extra={"example": "i-0123456789abcdef0"},
    )
    availability_zone: str = Field(
        "",
        description="This machine's zone; needed with instance_id.",
        json_schema_extra={"example": "us-east-1a"},
    )
    instance_type: str = Field(
        "",
        description="This machine's type, for its limits, where instance_id is set. Empty: they are not known.",
        json_schema_extra={"example": "m7i.large"},
    )
    regions: tuple[str, ...] = Field(
        (),
        description="Regions whose volumes can be found. Empty: this machine's own. Only volumes of this machine's "
        "zone can be attached.",
    )
    profile: str = Field("", description="Profile of the AWS configuration files that has the credentials.")
    endpoint_url: str = Field("", description="Address of EC2's API. Empty: the region's own.")
    metadata_url: str = Field(
        "",
        description="Address of the instance metadata service. Empty: AWS_EC2_METADATA_SERVICE_ENDPOINT, or "
        "http://169.254.169.254.",
    )
    stuck_seconds: float = Field(
        90,
        gt=0,
        description="An attach of ours that is `attaching` for so long is undone, and tried under another device name.",
    )
    volume_type: str = Field("gp3", description="Type of the volumes that are made from snapshots.")
    pci_vendor: str = Field(
        "0x1d0f",
        pattern="^0x[0-9a-f]{4}$",
        description="PCI vendor of the NVMe controllers that can be EBS volumes. Another one only in a test machine.",
    )

    @model_validator(mode="after")
    def _whole_identity(self) -> Self:
        if bool(self.instance_id) != bool(self.availability_zone):
            raise ValueError("instance_id and availability_zone are set together, or both left to the metadata service")
        if self.availability_zone and not region_of(self.availability_zone):
            raise ValueError(f'availability_zone = "{self.availability_zone}" is no zone: us-east-1a is one')
        return self
