"""Finds disks: a query becomes the narrowest list that Compute Engine can make itself."""

import re

from cloudmanager.core.errors import DiskNotFound
from cloudmanager.core.model import Disk, Node, Page, Query
from cloudmanager.providers.gce.api import Compute, DiskPage, Listing
from cloudmanager.providers.gce.facts import disk_of
from cloudmanager.providers.gce.resource import is_region

PAGE_SIZE = 500
"""The largest that Compute Engine gives."""
_NAME_PART = re.compile(r"[-a-z0-9]*")
_LABEL_KEY = re.compile(r"[\w-]{1,63}")
_LABEL_VALUE = re.compile(r"[\w-]{0,63}")
_STATE = re.compile(r"[A-Z_]*")


class Finder:
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
            found = self._list(query.location, Listing(_filter(query), page_token or "", PAGE_SIZE))
        except DiskNotFound:
            return Page(())  # there is no such location
        disks = (disk_of(self._provider, self._project, disk, self._node) for disk in found.items)
        text = query.text.lower()
        return Page(
            tuple(disk for disk in disks if text in disk.canonical_id.rpartition("/")[2]), found.next_page_token or None
        )

    def _list(self, location: str, listing: Listing) -> DiskPage:
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
