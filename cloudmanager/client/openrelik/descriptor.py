"""The small JSON files that describe a disk among a task's input files.

Our own have the data type `cloud:cloudmanager:disk` and name the disk as the service does:

    {"disk": "prod:us-central1-b/evidence-7"}

OpenRelik's have `cloud:gcp:disk`, `cloud:aws:disk` or `cloud:azure:disk` and name it with the cloud's terms:

    {"provider": "gcp", "disk_name": "evidence-7", "zone": "us-central1-b"}

Both may say `access`: `read-only` (otherwise) or `scratch`. An unknown key is refused: it may be the one
that tells which of several disks is meant.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cloudmanager.client.model import Access
from cloudmanager.client.openrelik.errors import DescriptorError

DATA_TYPE = "cloud:cloudmanager:disk"
_LONGEST = 64 * 1024
_DESCRIPTIVE = frozenset({"display_name", "description", "uuid", "extension", "data_type", "mime_type"})
"""What OpenRelik knows of any file. None of it says which disk is meant."""

InputFile = Mapping[str, Any]
"""As openrelik-worker-common has it: id, uuid, display_name, extension, data_type, mime_type, path."""


@dataclass(frozen=True)
class Cloud:
    """How OpenRelik's descriptors name the disks of a cloud."""

    provider_type: str
    """Of the service's providers that can have the disk."""
    names: frozenset[str]
    """That `provider` may call the cloud by."""
    location: Mapping[str, str]
    """The keys that say where the disk is → the name of that fact."""


CLOUDS: Mapping[str, Cloud] = {
    "cloud:gcp:disk": Cloud(
        "gce",
        frozenset({"gcp", "gce", "google"}),
        {"project": "project", "project_id": "project", "zone": "zone", "region": "region"},
    ),
    "cloud:aws:disk": Cloud(
        "aws",
        frozenset({"aws", "amazon", "ebs"}),
        {"region": "region", "zone": "zone", "availability_zone": "zone"},
    ),
    "cloud:azure:disk": Cloud(
        "azure",
        frozenset({"azure", "microsoft"}),
        {
            "subscription": "subscription",
            "subscription_id": "subscription",
            "resource_group": "resource_group",
            "resource_group_name": "resource_group",
            "location": "region",
            "region": "region",
            "zone": "zone",
        },
    ),
}
"""By OpenRelik's data type."""


def describes_disk(input_file: InputFile) -> bool:
    """By its data type: what is in the file is not looked at."""
    return input_file.get("data_type") in (DATA_TYPE, *CLOUDS)


@dataclass(frozen=True)
class Descriptor:
    """Which disk is meant."""

    name: str
    """Of the disk: as the service names it, or, with a provider type, as the cloud does."""
    provider_type: str | None
    """None: the name says which provider it is."""
    access: Access
    provider: str = ""
    """The configured provider that must have it; empty: any of the type."""
    location: Mapping[str, str] = field(default_factory=dict)
    """Where the disk must be: `project`, `zone`, `region`, `subscription`, `resource_group` → its name."""

    @classmethod
    def read(cls, input_file: InputFile) -> Self:
        """Raises DescriptorError."""
        data_type = str(input_file.get("data_type"))
        content = _content(Path(str(input_file.get("path"))))
        reading = _Reading(_shown(input_file), data_type, content)
        cloud = CLOUDS.get(data_type)
        reading.refuse_unknown_keys(cloud)
        access = reading.access()
        if cloud is None:
            name = reading.text("disk")
            reading.refuse_other_provider(name.partition(":")[0])
            return cls(name, None, access)
        return cls(
            reading.text("disk_name"), cloud.provider_type, access, reading.provider(cloud), reading.location(cloud)
        )


@dataclass(frozen=True)
class _Reading:
    """The content of one file, and what it is called in errors."""

    shown: str
    data_type: str
    content: Mapping[str, Any]

    def text(self, key: str) -> str:
        value = self.content.get(key)
        if not isinstance(value, str) or not value.strip():
            raise DescriptorError(f"{self.shown} is {self.data_type}, but names no {key!r}.")
        return value.strip()

    def refuse_unknown_keys(self, cloud: Cloud | None) -> None:
        known = {"disk_name", *cloud.location} if cloud else {"disk"}
        known |= {"provider", "access", *_DESCRIPTIVE}
        if unknown := sorted(set(self.content) - known):
            raise DescriptorError(
                f"{self.shown} says {_listed(unknown)}, which is not understood in a {self.data_type} and may tell "
                f"which disk is meant. Understood are {_listed(sorted(known - _DESCRIPTIVE))}."
            )
        if (declared := self.content.get("data_type", self.data_type)) != self.data_type:
            raise DescriptorError(f"{self.shown} is {self.data_type}, but says of itself that it is {declared!r}.")

    def access(self) -> Access:
        access = self.content.get("access", Access.READ_ONLY)
        if access not in (Access.READ_ONLY, Access.SCRATCH):
            raise DescriptorError(
                f"{self.shown} asks for access {access!r}; a task's input may be read-only or scratch."
            )
        return Access(access)

    def refuse_other_provider(self, provider: str) -> None:
        if "provider" in self.content and self.text("provider") != provider:
            raise DescriptorError(
                f"{self.shown} names a disk of the provider {provider!r}, and the provider {self.text('provider')!r}."
            )

    def provider(self, cloud: Cloud) -> str:
        """Empty where it is the cloud that is named: else it can only be one of the service's providers."""
        if "provider" not in self.content:
            return ""
        declared = self.text("provider")
        others = {word for data_type, other in CLOUDS.items() if data_type != self.data_type for word in other.names}
        if declared.casefold() in others:
            raise DescriptorError(f"{self.shown} is {self.data_type}, but says that its provider is {declared!r}.")
        return "" if declared.casefold() in cloud.names else declared

    def location(self, cloud: Cloud) -> dict[str, str]:
        """A zone may be given as its link, of which the last part is the name. null counts as absent."""
        found: dict[str, str] = {}
        for key, fact in cloud.location.items():
            if self.content.get(key) is None:
                continue
            value = self.text(key).rstrip("/").rpartition("/")[2]
            if found.setdefault(fact, value).casefold() != value.casefold():
                raise DescriptorError(f"{self.shown} says two different things of its {fact}: {found[fact]}, {value}.")
        return found


def _content(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_LONGEST), object_pairs_hook=_object)
    except OSError as error:
        raise DescriptorError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise DescriptorError(f"{path} should describe a disk, but is no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise DescriptorError(f"{path} should describe a disk, but is no JSON object.")
    return content


def _object(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A key that is there twice would silently be the last one."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} is there twice")
        found[key] = value
    return found


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(repr(key) for key in keys)


def _shown(input_file: InputFile) -> str:
    return str(input_file.get("display_name") or input_file.get("path"))
