"""How Compute Engine names things, and the ways in which people write those names."""

import re
from dataclasses import dataclass
from typing import Self

from cloudmanager.core.errors import InvalidDiskId

DEFAULT_UNIVERSE = "googleapis.com"
_HOST = re.compile(r"(https?://(www|compute)\.(?P<of_link>[^/]+)/compute/(v1|beta)/|//compute\.(?P<of_name>[^/]+)/)")
"""Of links, in any universe: the domain is Google's, or that of a sovereign Google Cloud."""
_PATH = re.compile(r"projects/(?P<project>[^/]+)/(?P<scope>(zones|regions)/[^/]+|global)/(?P<kind>\w+)/(?P<name>[^/]+)")
_PROJECT = re.compile(r"([a-z0-9.-]{1,63}:)?[a-z0-9][-a-z0-9]{0,61}[a-z0-9]")
_LOCATION = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?|[1-9][0-9]{0,19}")
_REGION = re.compile(r"(u-)?[a-z]+-[a-z]+[0-9]+q?")
"""`u-` begins those of sovereign clouds (u-france-east1)."""
_CANONICAL = "gce://"
_EXAMPLES = "evidence-7, us-central1-b/evidence-7 or a link to the disk"


@dataclass(frozen=True)
class ResourceId:
    """A disk, instance or snapshot by its path: `projects/P/zones/Z/disks/D`."""

    project: str
    scope: str
    """`zones/Z`, `regions/R` or `global`."""
    kind: str
    """`disks`, `instances`, `snapshots`."""
    name: str

    @classmethod
    def from_link(cls, link: str) -> Self:
        """From a link that the API gave. Raises ValueError."""
        found = _PATH.fullmatch(_HOST.sub("", link, count=1))
        if found is None:
            raise ValueError(f"{link!a} is not a link to a resource of Compute Engine")
        return cls(found["project"], found["scope"], found["kind"], found["name"])

    @classmethod
    def of_canonical(cls, canonical_id: str) -> Self:
        """The reverse of `canonical_id`. Raises ValueError."""
        return cls.from_link(canonical_id.removeprefix(_CANONICAL))

    @property
    def path(self) -> str:
        return f"projects/{self.project}/{self.scope}/{self.kind}/{self.name}"

    @property
    def location(self) -> str:
        """The zone or region; empty for what is global."""
        return self.scope.partition("/")[2]

    @property
    def is_regional(self) -> bool:
        return self.scope.startswith("regions/")

    @property
    def short(self) -> str:
        """`us-central1-b/evidence-7`: unique within a project and kind."""
        return f"{self.location}/{self.name}" if self.location else self.name

    @property
    def canonical_id(self) -> str:
        """World-wide, for as long as the disk exists. Its number distinguishes it from a later disk of that name."""
        return f"{_CANONICAL}{self.path}"

    @property
    def is_numbered(self) -> bool:
        """Named by the number that it was given when it was made; a name begins with a letter."""
        return self.name.isdecimal()


def parse_disk(native: str, project: str, zone: str, universe: str = DEFAULT_UNIVERSE) -> ResourceId:
    """The disk that a native id names, in any of the spellings that Google's own tools take.

    A name or a numeric id may stand after its zone or region; a path or a link is taken as it is. A bare name is in
    `zone`, where the caller knows that; see `is_bare`. A link may name Google's own host or that of the `universe`.
    Raises InvalidDiskId.
    """
    disk = _from_link(native, project, universe) or _from_parts(native, project, zone)
    is_disk = disk is not None and disk.kind == "disks" and disk.location
    if disk is None or not is_disk or not _is_well_formed(disk):
        raise InvalidDiskId(f"{_shown(native)} is not the name of a disk of Compute Engine: write {_EXAMPLES}.")
    return disk


def is_bare(native: str) -> bool:
    """A name or number alone: which zone or region it is in is not said."""
    return "/" not in native


def parse_snapshot(native: str, project: str, universe: str = DEFAULT_UNIVERSE) -> ResourceId:
    """Raises InvalidDiskId."""
    snapshot = _from_link(native, project, universe) or ResourceId(project, "global", "snapshots", native)
    if snapshot.kind != "snapshots" or not _NAME.fullmatch(snapshot.name):
        raise InvalidDiskId(f"{_shown(native)} is not the name of a snapshot of Compute Engine.")
    return snapshot


def is_name(text: str) -> bool:
    """What a new resource may be called."""
    return _LOCATION.fullmatch(text) is not None


def is_region(location: str) -> bool:
    """`us-central1`; a zone has a further part."""
    return _REGION.fullmatch(location) is not None


def scope_of(location: str) -> str:
    return f"{'regions' if is_region(location) else 'zones'}/{location}"


def is_link(native: str) -> bool:
    return _HOST.match(native) is not None


def _from_link(native: str, project: str, universe: str) -> ResourceId | None:
    host = _HOST.match(native)
    if host and (host["of_link"] or host["of_name"]) not in (DEFAULT_UNIVERSE, universe):
        return None
    rest = native[host.end() :] if host else native
    if re.match(r"(zones|regions|global)/", rest) and rest.count("/") in (2, 3):
        rest = f"projects/{project}/{rest}"
    try:
        return ResourceId.from_link(rest)
    except ValueError:
        return None


def _from_parts(native: str, project: str, zone: str) -> ResourceId | None:
    location, slash, name = native.rpartition("/")
    if "/" in location or (slash and not location):
        return None
    return ResourceId(project, scope_of(location or zone), "disks", name)


def _is_well_formed(disk: ResourceId) -> bool:
    return bool(_PROJECT.fullmatch(disk.project) and _LOCATION.fullmatch(disk.location) and _NAME.fullmatch(disk.name))


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:77] + "...")
