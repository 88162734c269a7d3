"""Lists disks: one page of one resource group, or of the subscription, at a time."""

import base64
import binascii
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self
from urllib.parse import urlsplit

from cloudmanager.core.errors import InvalidRequest
from cloudmanager.core.model import Query
from cloudmanager.providers._listing import every, only
from cloudmanager.providers.azure.api import Compute
from cloudmanager.providers.azure.facts import DiskFacts, Place


@dataclass(frozen=True)
class Position:
    """Where a listing goes on: which of the scopes, and the path and query of Azure's link to the next page.

    The host is left out: a token comes back from a client, and must not decide where our credentials are sent.
    """

    scope: int = 0
    link: str = ""

    @classmethod
    def parse(cls, token: str | None) -> Self:
        """Raises InvalidRequest."""
        if token is None:
            return cls()
        try:
            scope, link = json.loads(base64.urlsafe_b64decode(token))
        except (binascii.Error, ValueError, TypeError) as error:
            raise _bad_token() from error
        if not (isinstance(scope, int) and scope >= 0 and isinstance(link, str)):
            raise _bad_token()
        return cls(scope, link)

    def token(self) -> str:
        return base64.urlsafe_b64encode(json.dumps([self.scope, self.link]).encode()).decode()


@dataclass(frozen=True)
class Found:
    disks: tuple[DiskFacts, ...]
    next_page: str | None


class Listing:
    """`groups` are the resource groups to list; none: the whole subscription."""

    def __init__(self, compute: Compute, endpoint: str, subscription: str, groups: Sequence[str]) -> None:
        self._compute = compute
        self._endpoint = endpoint
        self._subscription = subscription
        self._scopes: tuple[str | None, ...] = tuple(groups) or (None,)

    def find(self, query: Query, page_token: str | None) -> Found:
        """Azure filters by resource group only: the rest is left out here, so a page may be empty with more to come."""
        position = Position.parse(page_token)
        if position.scope >= len(self._scopes):
            raise _bad_token()
        group = self._scopes[position.scope]
        listed = self._compute.list_disks(group, self._link(position, group))
        following = self._next(position, listed.next_link)
        matching = tuple(disk for disk in listed.disks if _matches(disk, query))
        return Found(matching, following.token() if following else None)

    def named(self, name: str, provider: str) -> DiskFacts:
        """The only disk of that name in the resource groups that are listed.

        Raises DiskNotFound, AmbiguousDisk, AccessDenied.
        """
        found = (disk for disk in self._every() if disk.id.name.casefold() == name.casefold())
        return only(found, name, lambda disk: disk.id.short, provider=provider, prefix="GROUP")

    def _every(self) -> Iterator[DiskFacts]:
        for group in self._scopes:
            yield from every(partial(self._page, group))

    def _page(self, group: str | None, link: str | None) -> tuple[Sequence[DiskFacts], str | None]:
        listed = self._compute.list_disks(group, link)
        return listed.disks, self._endpoint + _local(listed.next_link) if listed.next_link else None

    def _link(self, position: Position, group: str | None) -> str | None:
        """Raises InvalidRequest for a token that leads anywhere but to the list that it continues."""
        if not position.link:
            return None
        if urlsplit(position.link).path.casefold() != self._path(group).casefold():
            raise _bad_token()
        return self._endpoint + position.link

    def _next(self, position: Position, link: str | None) -> Position | None:
        if link:
            return Position(position.scope, _local(link))
        return Position(position.scope + 1) if position.scope + 1 < len(self._scopes) else None

    def _path(self, group: str | None) -> str:
        within = f"/resourceGroups/{group}" if group else ""
        return f"/subscriptions/{self._subscription}{within}/providers/Microsoft.Compute/disks"


def _matches(disk: DiskFacts, query: Query) -> bool:
    place = Place.parse(query.location)
    return (
        query.text.casefold() in disk.id.name.casefold()
        and (not query.location or disk.place.region.casefold() == place.region.casefold())
        and (not place.zone or disk.place.zone == place.zone)
        and (not query.state or disk.state.casefold() == query.state.casefold())
        and all(disk.tags.get(name) == value for name, value in query.labels.items())
    )


def _local(link: str) -> str:
    """Without the host."""
    parts = urlsplit(link)
    return f"{parts.path}?{parts.query}"


def _bad_token() -> InvalidRequest:
    return InvalidRequest("The page token is not one that this list gave out: begin again without one.")
