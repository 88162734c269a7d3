"""The ways to name a volume: `vol-…`, `region/vol-…`, an ARN, in any letter case."""

import re
from dataclasses import dataclass
from typing import Self

from cloudmanager.core.errors import InvalidDiskId
from cloudmanager.core.model import DiskId

_HEX = "(?:[0-9a-f]{17}|[0-9a-f]{8})"
_REGION = "[a-z]{2,}(?:-[a-z]+)+-[0-9]{1,2}"
_SPELLINGS = re.compile(
    rf"(?:arn:aws(?:-[a-z]+)*:ec2:(?P<arn_region>{_REGION}):[0-9]{{12}}:(?P<arn_kind>volume|snapshot)/"
    rf"|(?P<region>{_REGION})/)?"
    rf"(?P<id>(?P<kind>vol|snap)-{_HEX})"
)
_WORD = {"vol": "volume", "snap": "snapshot"}


@dataclass(frozen=True)
class ResourceId:
    """A volume or a snapshot. EC2's ids are random and unique, so a region narrows the search and means no more."""

    id: str
    region: str = ""
    """Empty: not said."""

    @classmethod
    def parse(cls, disk_id: DiskId, kind: str = "vol") -> Self:
        """`kind` is `vol` or `snap`. Raises InvalidDiskId. No name tags: they are neither unique nor lasting."""
        match = _SPELLINGS.fullmatch(disk_id.native.lower())
        if match is None or match["kind"] != kind or match["arn_kind"] not in (None, _WORD[kind]):
            example = f"{kind}-0123456789abcdef0"
            raise InvalidDiskId(
                f"{str(disk_id)!a} does not name a {_WORD[kind]}: write it as {disk_id.provider}:{example}, as "
                f"{disk_id.provider}:us-east-1/{example}, or as its ARN."
            )
        return cls(match["id"], match["arn_region"] or match["region"] or "")

    def native(self, home: str) -> str:
        """The spelling that we use: without the region when that is `home`."""
        return self.id if self.region in ("", home) else f"{self.region}/{self.id}"

    @property
    def canonical(self) -> str:
        """Names it world-wide: the same from every provider and account."""
        return f"aws://{self.region}/{self.id}"
