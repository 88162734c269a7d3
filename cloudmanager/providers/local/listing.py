"""One page of everything that the local provider has: images first, then devices."""

import json
from collections.abc import Callable, Iterator
from itertools import islice

from cloudmanager.core.errors import InvalidRequest
from cloudmanager.core.model import Disk, Page, Query
from cloudmanager.providers.local.devices import DeviceDisks
from cloudmanager.providers.local.images import ImageDisks

PAGE_SIZE = 100
_START: tuple[int, tuple[str, ...]] = (0, ())


def page(images: ImageDisks, devices: DeviceDisks, query: Query, token: str | None) -> Page[Disk]:
    """The token is the position of the last disk of the page before, so that changes meanwhile move nothing.

    Local disks have no location, labels or state of a cloud: a query for one finds nothing. Raises InvalidRequest.
    """
    if query.location or query.labels or query.state:
        return Page(())
    part = query.text.casefold()
    found = list(islice(_all(images, devices, token, lambda native: part in native.casefold()), PAGE_SIZE + 1))
    items = tuple(disk for disk, _position in found[:PAGE_SIZE])
    return Page(items, found[PAGE_SIZE - 1][1] if len(found) > PAGE_SIZE else None)


def _all(
    images: ImageDisks, devices: DeviceDisks, token: str | None, is_wanted: Callable[[str], bool]
) -> Iterator[tuple[Disk, str]]:
    """By its name a disk is left out before it is opened."""
    kind, position = _parsed(token) if token else ("image", _START)
    if kind == "image":
        for disk, entry in images.list(position, is_wanted):
            yield disk, json.dumps(["image", *entry.position])
    last_device = position[1][0] if kind == "device" else ""
    for disk, name in devices.list(last_device, is_wanted):
        yield disk, json.dumps(["device", 0, [name]])


def _parsed(token: str) -> tuple[str, tuple[int, tuple[str, ...]]]:
    match _decoded(token):
        case [("image" | "device") as kind, int(index), [str(first), *rest]] if index >= 0:
            return kind, (index, (first, *map(str, rest)))
    raise InvalidRequest("That is not a page token of this list. Start again without one.")


def _decoded(token: str) -> object:
    try:
        return json.loads(token)
    except ValueError:
        return None
