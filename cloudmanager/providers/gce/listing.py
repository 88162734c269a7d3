"""Finds disks: a query becomes the narrowest list that Compute Engine can make itself."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from cloudmanager.core.errors import CloudUnavailable, DiskNotFound
from cloudmanager.core.model import Disk, Node, Page, Query
from cloudmanager.providers._listing import every, only
from cloudmanager.providers.gce.api import Compute, DiskPage, ListRequest
from cloudmanager.providers.gce.facts import disk_of
from cloudmanager.providers.gce.resource_id import ResourceId, is_region

if TYPE_CHECKING:
    from google.cloud import compute_v1

_PAGE_SIZE = 500
"""The largest that Compute Engine gives."""
_NAME_PART = re.compile(r"[-a-z0-9]*")
_LABEL_KEY = re.compile(r"[\w-]{1,63}")
_LABEL_VALUE = re.compile(r"[\w-]{0,63}")
_STATE = re.compile(r"[A-Z_]*")


class Listing:
    """The disks of one project."""

    def __init__(
        self, compute: Compute, provider: str, node: Node, project: str, is_boot: Callable[[ResourceId], bool]
    ) -> None:
        self._is_boot = is_boot
        self._compute = compute
        self._provider = provider
        self._node = node
        self._project = project

    def find(self, query: Query, page_token: str | None) -> Page[Disk]:
        """A page may be short, or empty, and not the last."""
        if not _can_match(query):
            return Page(())
        try:
            found = self._list(query.location, ListRequest(_filter(query), page_token or "", _PAGE_SIZE))
        except DiskNotFound:
            return Page(())  # there is no such location
        disks = (disk_of(self._provider, self._project, disk, self._node, self._is_boot) for disk in found.items)
        text = query.text.lower()
        return Page(
            tuple(disk for disk in disks if text in disk.canonical_id.rpartition("/")[2]), found.next_page_token or None
        )

    def named(self, name: str) -> "compute_v1.Disk":
        """The only disk of that name or number in the zones and regions of the project.

        Raises DiskNotFound, AmbiguousDisk, CloudUnavailable while a part of them does not answer, AccessDenied.
        """
        filter = f"id = {name}" if name.isdecimal() else f'name = "{name}"'
        found = every(partial(self._complete_page, filter))
        return only(found, name, _short, provider=self._provider, prefix="ZONE")

    def _complete_page(self, filter: str, token: str | None) -> "tuple[Sequence[compute_v1.Disk], str | None]":
        """A page that no zone is missing from. Raises CloudUnavailable."""
        page = self._compute.disks_everywhere(self._project, ListRequest(filter, token or "", _PAGE_SIZE))
        if page.unreachable:
            raise CloudUnavailable(
                f"Compute Engine cannot list now what is in {', '.join(page.unreachable)}. Add the zone or region to "
                "the disk's name, or try again."
            )
        return page.items, page.next_page_token

    def _list(self, location: str, listing: ListRequest) -> DiskPage:
        if not location:
            return self._compute.disks_everywhere(self._project, listing)
        if is_region(location):
            return self._compute.disks_of_region(self._project, location, listing)
        return self._compute.disks_of_zone(self._project, location, listing)


def _short(disk: "compute_v1.Disk") -> str:
    return ResourceId.from_link(disk.self_link).short


def _can_match(query: Query) -> bool:
    """False when no disk can be like that: what names, labels and states are made of is fixed.

    So nothing that could end a quoted value ever gets into a filter.
    """
    return (
        _NAME_PART.fullmatch(query.text.lower()) is not None
        and _STATE.fullmatch(query.state.upper()) is not None
        and _NAME_PART.fullmatch(query.location) is not None
        and all(_LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value) for key, value in query.labels.items())
    )


def _filter(query: Query) -> str:
    """Compute Engine takes one regular expression, or any number of comparisons: the rest of the work is ours."""
    comparisons = [f'(labels.{key} = "{value}")' for key, value in sorted(query.labels.items())]
    if query.state:
        comparisons.append(f'(status = "{query.state.upper()}")')
    if comparisons:
        return " ".join(comparisons)
    return f"name eq .*{query.text.lower()}.*" if query.text else ""
