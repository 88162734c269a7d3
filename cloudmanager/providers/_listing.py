"""Walks over the pages of a list, and the search for the only disk of a name."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from cloudmanager.core.errors import AccessDenied, AmbiguousDisk, DiskNotFound

Item = TypeVar("Item")
Page = tuple[Sequence[Item], str | None]
"""Items, and the token of the next page: none, or an empty one, at the end."""
_SHOWN = 5


def every(list_page: Callable[[str | None], Page[Item]]) -> Iterator[Item]:
    """The items of all pages. `list_page` takes the token of a page, None for the first one."""
    token: str | None = None
    while True:
        items, token = list_page(token)
        yield from items
        if not token:
            return


def only(found: Iterable[Item], name: str, short: Callable[[Item], str], *, provider: str, prefix: str) -> Item:
    """The only one of the disks that were found by the name alone.

    `short` is an unambiguous name of a disk, and `prefix` what such a name has before the slash. Raises DiskNotFound,
    AmbiguousDisk with the candidates, and AccessDenied with advice: a search needs the permission to list.
    """
    try:
        disks = list(found)
    except AccessDenied as error:
        raise AccessDenied(
            f"{error.detail} A disk is found by its name alone only where this service may list disks; otherwise write "
            f"{provider}:{prefix}/{name}.",
            cloud_code=error.cloud_code,
        ) from error
    if not disks:
        raise DiskNotFound(f"No disk that {provider} lists is called {name}.")
    if len(disks) > 1:
        names = ", ".join(f"{provider}:{short(disk)}" for disk in disks[:_SHOWN])
        raise AmbiguousDisk(f"{len(disks)} disks are called {name}: {names}. Use one of these names.")
    return disks[0]
