"""One region of EC2 through boto3: the calls that disks need, answers as facts, errors as ours."""

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import Loader, create_loader

from cloudmanager.core.errors import CloudManagerError, ConfigurationError
from cloudmanager.providers._limiter import Limiter
from cloudmanager.providers._listing import every
from cloudmanager.providers.aws.errors import translated
from cloudmanager.providers.aws.facts import Document, EbsLimits, Volume, VolumeAttachment, VolumeSnapshot, answered_at
from cloudmanager.providers.aws.settings import AwsSettings

_PAGE_SIZE = 500
_NOTHING_TO_DETACH = frozenset(
    {
        "IncorrectInstanceState",
        "IncorrectState",
        "InvalidAttachment.NotFound",
        "InvalidInstanceID.NotFound",
        "InvalidVolume.NotFound",
    }
)
_POOLED_CONNECTIONS = 32
"""Hooks run in many threads, and a client is shared by all."""


class Regions:
    """A client for each region, made when it is first used. Thread-safe."""

    def __init__(self, settings: AwsSettings) -> None:
        self._settings = settings
        self._limiter = settings.limiter()
        self._clients: dict[str, Ec2] = {}
        self._lock = threading.Lock()
        # botocore logs signed requests, session tokens among them, when everything is logged
        logging.getLogger("botocore").setLevel(logging.INFO)

    def __getitem__(self, region: str) -> "Ec2":
        """Raises AccessDenied when the profile does not exist, ConfigurationError when the region is none."""
        with self._lock:  # boto3's sessions are not thread-safe, its clients are
            if region not in self._clients:
                self._clients[region] = Ec2(self._make_client(region), region, self._limiter)
            return self._clients[region]

    def _make_client(self, region: str) -> Any:
        try:
            core = botocore.session.Session(profile=self._settings.profile or None)
            core.register_component("data_loader", _service_models())
            session = boto3.Session(botocore_session=core, region_name=region)
            return session.client("ec2", endpoint_url=self._settings.endpoint_url or None, config=self._config())
        except BotoCoreError as error:
            raise translated(error, "a client") from error
        except ValueError as error:
            raise ConfigurationError(f"boto3 cannot make a client for {region}: check endpoint_url.") from error

    def _config(self) -> Config:
        timeout = self._settings.request_timeout_seconds
        return Config(
            connect_timeout=timeout,
            read_timeout=timeout,
            max_pool_connections=_POOLED_CONNECTIONS,
            # One attempt: the limiter repeats reads, and an attach is repeated only after a look at what became of it.
            retries={"total_max_attempts": 1, "mode": "standard"},
            user_agent_extra="cloudmanager",
        )


@cache
def _service_models() -> Loader:
    """Shared by all providers and regions: the model of EC2 takes 30 MB, and 0.1 s to read."""
    return create_loader()


@dataclass(frozen=True)
class Tagged:
    """The tags by which what we make is found again."""

    tags: Mapping[str, str]

    def filters(self) -> list[Document]:
        return [filter_by(f"tag:{key}", literal(value)) for key, value in self.tags.items()]

    def specification(self, resource: str) -> list[Document]:
        tags = [{"Key": key, "Value": value} for key, value in self.tags.items()]
        return [{"ResourceType": resource, "Tags": tags}]


class Ec2:
    """Reads are repeated when EC2 throttles or fails; what changes something is asked once."""

    def __init__(self, client: Any, region: str, limiter: Limiter) -> None:
        self.region = region
        self._client = client
        self._limiter = limiter

    def volume(self, volume_id: str) -> Volume:
        """Raises DiskNotFound."""
        answer = self._read(self._client.describe_volumes, VolumeIds=[volume_id])
        return Volume.of(answer["Volumes"][0], self.region, answered_at(answer))

    def volumes_by_id(self, volume_ids: Collection[str]) -> list[Volume]:
        """Raises DiskNotFound when one of them does not exist."""
        answer = self._read(self._client.describe_volumes, VolumeIds=sorted(volume_ids))
        return [Volume.of(item, self.region, answered_at(answer)) for item in answer["Volumes"]]

    def volumes(self, filters: Sequence[Document], token: str | None = None) -> tuple[list[Volume], str | None]:
        """A page of them, and the token of the next one."""
        more = {"NextToken": token} if token else {}
        answer = self._read(self._client.describe_volumes, Filters=list(filters), MaxResults=_PAGE_SIZE, **more)
        return [Volume.of(item, self.region) for item in answer["Volumes"]], answer.get("NextToken")

    def every_volume(self, *filters: Document) -> Iterator[Volume]:
        return every(partial(self.volumes, filters))

    def snapshot(self, snapshot_id: str) -> VolumeSnapshot:
        """Raises DiskNotFound."""
        answer = self._read(self._client.describe_snapshots, SnapshotIds=[snapshot_id])
        return VolumeSnapshot.of(answer["Snapshots"][0], self.region)

    def snapshots(self, *filters: Document) -> list[VolumeSnapshot]:
        """Our account's."""

        def page(token: str | None) -> tuple[list[VolumeSnapshot], str | None]:
            more = {"NextToken": token} if token else {}
            answer = self._read(
                self._client.describe_snapshots,
                OwnerIds=["self"],
                Filters=list(filters),
                MaxResults=_PAGE_SIZE,
                **more,
            )
            return [VolumeSnapshot.of(item, self.region) for item in answer["Snapshots"]], answer.get("NextToken")

        return list(every(page))

    def ebs_limits(self, instance_type: str) -> EbsLimits:
        answer = self._read(self._client.describe_instance_types, InstanceTypes=[instance_type])
        return EbsLimits.of(answer["InstanceTypes"][0])

    def attach(self, volume_id: str, instance_id: str, device: str, card: int | None) -> VolumeAttachment:
        """As EC2 answers: attaching. `card`: None on a machine that has one EBS card."""
        on_card = {} if card is None else {"EbsCardIndex": card}
        answer = self._ask(
            self._client.attach_volume, VolumeId=volume_id, InstanceId=instance_id, Device=device, **on_card
        )
        return VolumeAttachment.of(answer)

    def detach(self, volume_id: str, instance_id: str, device: str) -> None:
        """Of this instance only: without one, EC2 would detach the volume from whichever has it. Never forced.

        That it is not attached so, or not any more, is no error: whoever asks looks afterwards.
        """

        try:
            self._read(self._client.detach_volume, VolumeId=volume_id, InstanceId=instance_id, Device=device)
        except CloudManagerError as error:
            if error.cloud_code not in _NOTHING_TO_DETACH:
                raise

    def create_snapshot(self, volume_id: str, description: str, tagged: Tagged) -> VolumeSnapshot:
        answer = self._ask(
            self._client.create_snapshot,
            VolumeId=volume_id,
            Description=description,
            TagSpecifications=tagged.specification("snapshot"),
        )
        return VolumeSnapshot.of(answer, self.region)

    def create_volume(self, snapshot_id: str, zone: str, volume_type: str, token: str, tagged: Tagged) -> Volume:
        """Repeated safely: `token` makes one volume."""
        answer = self._read(
            self._client.create_volume,
            SnapshotId=snapshot_id,
            AvailabilityZone=zone,
            VolumeType=volume_type,
            ClientToken=token,
            TagSpecifications=tagged.specification("volume"),
        )
        return Volume.of(answer, self.region)

    def delete_volume(self, volume_id: str) -> None:
        self._ask(self._client.delete_volume, VolumeId=volume_id)

    def delete_snapshot(self, snapshot_id: str) -> None:
        self._ask(self._client.delete_snapshot, SnapshotId=snapshot_id)

    def may(self, action: str, **parameters: object) -> bool:
        """Whether a policy allows an action, by a dry run. Raises whatever else EC2 answers."""
        try:
            self._ask(getattr(self._client, action), DryRun=True, **parameters)
        except CloudManagerError as error:
            if error.cloud_code in ("DryRunOperation", "UnauthorizedOperation"):
                return error.cloud_code == "DryRunOperation"
            raise
        return True

    def _read(self, call: Callable[..., Document], **parameters: object) -> Document:
        """Also of a change that is harmless when it is repeated."""
        return self._limiter.read(self._kind(call), lambda: self._translated(call, parameters))

    def _ask(self, call: Callable[..., Document], **parameters: object) -> Document:
        return self._limiter.change(self._kind(call), lambda: self._translated(call, parameters))

    def _kind(self, call: Callable[..., Document]) -> str:
        """EC2 has a bucket for each action in each region."""
        return f"{self.region}/{self._action(call)}"

    def _translated(self, call: Callable[..., Document], parameters: Mapping[str, object]) -> Document:
        try:
            return call(**parameters)
        except (ClientError, BotoCoreError) as error:
            raise translated(error, self._action(call)) from error

    def _action(self, call: Callable[..., Document]) -> str:
        return str(self._client.meta.method_to_api_mapping[call.__name__])


def filter_by(name: str, *values: str) -> Document:
    return {"Name": name, "Values": list(values)}


def literal(text: str) -> str:
    """A filter value that means itself."""
    return "".join(f"\\{char}" if char in "\\*?" else char for char in text)
