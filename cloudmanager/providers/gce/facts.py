"""What Compute Engine says of a disk, as the core wants to know it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from cloudmanager.core.incarnation import refuse_replaced
from cloudmanager.core.model import Access, Disk, DiskId, Node
from cloudmanager.providers.gce.resource_id import ResourceId

if TYPE_CHECKING:
    from google.cloud import compute_v1

GIB = 1024**3


def disk_of(
    provider: str,
    project: str,
    found: "compute_v1.Disk",
    node: Node,
    is_boot: Callable[[ResourceId], bool],
    *,
    by_number: bool = False,
) -> Disk:
    """`project` is the provider's own: a disk of it is known by its short name.

    `is_boot` is asked of a disk that is attached to this instance.

    `by_number`: it was asked for by its number, which stays its id, for the name may mean another disk later.
    """
    resource = ResourceId.from_link(found.self_link)
    holders = users(found)
    is_attached = any(user.path == node.native_id for user in holders)
    boots = is_attached and is_boot(resource)
    named = replace(resource, name=incarnation(found)) if by_number else resource
    return Disk(
        id=DiskId(provider, named.short if named.project == project else named.path),
        canonical_id=resource.canonical_id,
        size_bytes=found.size_gb * GIB,
        location=resource.location,
        description=found.description,
        labels=dict(found.labels),
        access=_access(found) - ({Access.READ_WRITE} if boots else set()),
        held_by=tuple(user.short for user in holders if user.path != node.native_id),
        is_attached=is_attached,
        is_boot=boots,
        created_at=_moment(found.creation_timestamp),
        incarnation=incarnation(found),
    )


def incarnation(disk: "compute_v1.Disk") -> str:
    """The number that Compute Engine gives to a disk when it is made, and never again; empty if it did not say."""
    return str(disk.id or "")


def refuse_other(claimed: Disk, found: "compute_v1.Disk") -> None:
    """Raises DiskReplaced when what has the name now is not the disk that was claimed."""
    refuse_replaced(claimed, incarnation(found), _moment(found.creation_timestamp))


def users(disk: "compute_v1.Disk") -> list[ResourceId]:
    """The instances that it is attached to."""
    return [ResourceId.from_link(link) for link in disk.users]


def _access(disk: "compute_v1.Disk") -> frozenset[Access]:
    if disk.access_mode == "READ_ONLY_MANY":
        return frozenset({Access.READ_ONLY, Access.SCRATCH})
    return frozenset(Access)


def _moment(timestamp: str) -> datetime | None:
    return datetime.fromisoformat(timestamp) if timestamp else None
