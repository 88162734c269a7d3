"""The small JSON files that stand for a disk among a task's input files.

Our own have the data type `cloud:cloudmanager:disk` and name the disk as the service does:

    {"disk": "prod:us-central1-b/evidence-7"}

OpenRelik's have `cloud:gcp:disk`, `cloud:aws:disk` or `cloud:azure:disk` and name it in the cloud's words:

    {"provider": "gcp", "disk_name": "evidence-7"}

Both may say `access`: `read-only` (otherwise) or `scratch`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cloudmanager.client.model import Access
from cloudmanager.client.openrelik.errors import DescriptorError

DATA_TYPE = "cloud:cloudmanager:disk"
PROVIDER_TYPES: Mapping[str, str] = {"cloud:gcp:disk": "gce", "cloud:aws:disk": "aws", "cloud:azure:disk": "azure"}
"""By OpenRelik's data type, the type of the providers that can have the disk."""
_LONGEST = 64 * 1024

InputFile = Mapping[str, Any]
"""As openrelik-worker-common has it: id, uuid, display_name, extension, data_type, mime_type, path."""


def describes_disk(input_file: InputFile) -> bool:
    """By its data type: what is in the file is not looked at."""
    return input_file.get("data_type") in (DATA_TYPE, *PROVIDER_TYPES)


@dataclass(frozen=True)
class Descriptor:
    """Which disk is meant."""

    name: str
    """Of the disk: as the service names it, or, with a provider type, as the cloud does."""
    provider_type: str | None
    """None: the name says which provider it is."""
    access: Access

    @classmethod
    def read(cls, input_file: InputFile) -> Self:
        """Raises DescriptorError."""
        data_type = str(input_file.get("data_type"))
        content = _content(Path(str(input_file.get("path"))))
        provider_type = PROVIDER_TYPES.get(data_type)
        name = content.get("disk_name" if provider_type else "disk")
        if not isinstance(name, str) or not name.strip():
            wanted = "disk_name" if provider_type else "disk"
            raise DescriptorError(f"{_shown(input_file)} is {data_type}, but names no {wanted!r}.")
        return cls(name.strip(), provider_type, _access(content, input_file))


def _content(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_LONGEST))
    except OSError as error:
        raise DescriptorError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise DescriptorError(f"{path} should describe a disk, but is no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise DescriptorError(f"{path} should describe a disk, but is no JSON object.")
    return content


def _access(content: Mapping[str, Any], input_file: InputFile) -> Access:
    access = content.get("access", Access.READ_ONLY)
    if access not in (Access.READ_ONLY, Access.SCRATCH):
        raise DescriptorError(
            f"{_shown(input_file)} asks for access {access!r}; a task's input may be read-only or scratch."
        )
    return Access(access)


def _shown(input_file: InputFile) -> str:
    return str(input_file.get("display_name") or input_file.get("path"))
