"""Finds disks: a query becomes the narrowest list that Compute Engine can make itself."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cloudmanager.core.errors import AccessDenied, AmbiguousDisk, CloudUnavailable, DiskNotFound
from cloudmanager.core.model import Disk, Node, Page, Query
from cloudmanager.providers.gce.api import Compute, DiskPage, ListRequest
from cloudmanager.providers.gce.facts import disk_of
from cloudmanager.providers.gce.resource_id import Resource, is_region

if TYPE_CHECKING:
    from google.cloud import compute_v1

PAGE_SIZE = 500
"""The largest that Compute Engine gives."""
_SHOWN = 5
_NAME_PART = re.compile(r"[-a-z0-9]*")
_LABEL_KEY = re.compile(r"[\w-]{1,63}")
_LABEL_VALUE = re.compile(r"[\w-]{0,63}")
_STATE = re.compile(r"[A-Z_]*")


class Listing:
    """The disks of one project."""

    def __init__(self, compute: Compute, provider: str, node: Node, project: str) -> None:
        self._compute = compute
        self._provider = provider
        self._node = node
        self._project = project

    def find(self, query: Query, page_token: str | None) -> Page[Disk]:
        """A page may be short, or empty, and not the last."""
        if not _can_match(query):
            return Page(())
        try:
            found = self._list(query.location, ListRequest(_filter(query), page_token or "", PAGE_SIZE))
        except DiskNotFound:
            return Page(())  # there is no such location
        disks = (disk_of(self._provider, self._project, disk, self._node) for disk in found.items)
        text = query.text.lower()
        return Page(
            tuple(disk for disk in disks if text in disk.canonical_id.rpartition("/")[2]), found.next_page_token or None
        )

    def named(self, name: str) -> "compute_v1.Disk":
        """The only disk of that name or number in the zones and regions of the project.

        Raises DiskNotFound, AmbiguousDisk, CloudUnavailable while a part of them does not answer, AccessDenied.
        """
        try:
            found = list(self._everywhere(f"id = {name}" if name.isdecimal() else f'name = "{name}"'))
        except AccessDenied as error:
            raise AccessDenied(
                f"{error.detail} A disk is found by its name alone only where this service may list disks; else name "
                f"its zone or region too: {self._provider}:ZONE/{name}.",
                cloud_code=error.cloud_code,
            ) from error
        if not found:
            raise DiskNotFound(f"No zone and no region of project {self._project} has a disk {name}.")
        if len(found) > 1:
            names = ", ".join(f"{self._provider}:{Resource.from_link(disk.self_link).short}" for disk in found[:_SHOWN])
            raise AmbiguousDisk(f"{len(found)} disks are called {name}: {names}. Say which one is meant.")
        return found[0]

    def _everywhere(self, filter: str) -> "Iterator[compute_v1.Disk]":
        token = ""
        while True:
            page = self._compute.disks_everywhere(self._project, ListRequest(filter, token, PAGE_SIZE))
            if page.unreachable:
                raise CloudUnavailable(
                    f"Compute Engine cannot say now what is in {', '.join(page.unreachable)}. Name the disk's zone or "
                    "region too, or try again."
                )
            yield from page.items
            token = page.next_page_token
            if not token:
                return

    def _list(self, location: str, listing: ListRequest) -> DiskPage:
        if not location:
            return self._compute.disks_everywhere(self._project, listing)
        if is_region(location):
            return self._compute.disks_of_region(self._project, location, listing)
        return self._compute.disks_of_zone(self._project, location, listing)


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
