"""Which EC2 instance this machine is: from the settings, or from the instance metadata service."""

import json
import os
from dataclasses import dataclass
from typing import Self

from cloudmanager.core.errors import ConfigurationError
from cloudmanager.core.model import Node
from cloudmanager.providers._capacity import Capacity
from cloudmanager.providers._metadata import MetadataServer
from cloudmanager.providers.aws.facts import EbsLimits
from cloudmanager.providers.aws.settings import AwsSettings, region_of

_DEFAULT_METADATA_URL = "http://169.254.169.254"
_TOKEN_SECONDS = 60
_ADVICE = (
    "If this is an EC2 instance, allow IMDSv2 on it (in a container, with a hop limit of 2); else set instance_id and "
    "availability_zone."
)


@dataclass(frozen=True)
class Machine:
    """This EC2 instance."""

    instance_id: str
    region: str
    zone: str
    instance_type: str = ""
    """Empty where the settings do not say."""

    @classmethod
    def learn(cls, settings: AwsSettings) -> Self:
        """Raises ConfigurationError that says what was tried."""
        if settings.instance_id:
            return cls(
                settings.instance_id,
                region_of(settings.availability_zone),
                settings.availability_zone,
                settings.instance_type,
            )
        return cls._asked(MetadataServer(_url(settings), timeout=settings.metadata_timeout_seconds, advice=_ADVICE))

    @classmethod
    def _asked(cls, server: MetadataServer) -> Self:
        """IMDSv2: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html."""
        ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
        token = {"X-aws-ec2-metadata-token": server.ask("latest/api/token", ttl, "PUT")}
        text = server.ask("latest/dynamic/instance-identity/document", token)
        try:
            document = json.loads(text)
            type_name = str(document.get("instanceType", ""))
            return cls(document["instanceId"], document["region"], document["availabilityZone"], type_name)
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"The metadata service gave no instance identity document. {_ADVICE}") from error

    @property
    def node(self) -> Node:
        return Node(self.instance_id, self.zone, f"{self.region}/{self.instance_id}")


def capacity(settings: AwsSettings, machine: Machine, limits: EbsLimits, used: int) -> Capacity:
    """Of volumes with the root volume. A shared limit is an upper bound: network interfaces take from it, too."""
    if settings.max_disks:
        return Capacity(used, settings.max_disks, "max_disks")
    if limits.limit is None:
        return Capacity(used, None, "Allow ec2:DescribeInstanceTypes, and set instance_type where instance_id is set.")
    shared = ", shared with network interfaces and instance store volumes" if limits.is_shared else ""
    return Capacity(used, limits.limit, f"{machine.instance_type}{shared}")


def _url(settings: AwsSettings) -> str:
    return settings.metadata_url or os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or _DEFAULT_METADATA_URL
