"""Which resources a Describe action answers with: ids, filters, pages.

Rules of the Amazon EC2 API: the values of a filter are alternatives, the filters are all required; `*` and `?` are
wildcards, letter case counts; a page has 5 to 1000 items, and ids and page sizes exclude each other.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from cloudmanager.testing.cloud.ec2 import errors
from cloudmanager.testing.cloud.ec2.schema import Parameters

Resource = TypeVar("Resource")
Field = Callable[[Resource], Iterable[str]]
"""The values that a resource has for a filter."""

_LEAST_PAGE = 5
_MOST_PAGE = 1000


class Filters(Generic[Resource]):
    """The filters that one Describe action knows. `tags` reads a resource's tags, where it has any."""

    def __init__(
        self, fields: Mapping[str, Field[Resource]], tags: Callable[[Resource], Mapping[str, str]] = lambda _: {}
    ) -> None:
        self._fields = fields
        self._tags = tags

    def select(self, resources: Iterable[Resource], request: Parameters) -> list[Resource]:
        """Raises InvalidParameterValue for a filter that does not exist."""
        chosen = list(resources)
        for wanted in request.structures("Filters"):
            field = self._field(wanted.optional("Name") or "")
            patterns = [_pattern(value) for value in wanted.texts("Values")]
            chosen = [item for item in chosen if any(p.fullmatch(v) for p in patterns for v in field(item))]
        return chosen

    def _field(self, name: str) -> Field[Resource]:
        if name.startswith("tag:"):
            key = name.removeprefix("tag:")
            return lambda item: [value for have, value in self._tags(item).items() if have == key]
        if name == "tag-key":
            return lambda item: list(self._tags(item))
        if name not in self._fields:
            raise errors.invalid_filter(name)
        return self._fields[name]


def _pattern(value: str) -> re.Pattern[str]:
    parts = re.findall(r"\\.|[*?]|[^*?\\]+|\\", value, re.DOTALL)
    wild = {"*": ".*", "?": "."}
    return re.compile("".join(wild.get(part) or re.escape(re.sub(r"\\(.)", r"\1", part)) for part in parts), re.DOTALL)


def page(
    items: list[Resource], request: Parameters, ids: str, largest: int | None = None
) -> tuple[list[Resource], str | None]:
    """A page and the token of the next one. `ids` names the parameter that excludes MaxResults.

    `largest`: EC2 may answer a paged request with fewer items than it was asked for.
    """
    size = request.number("MaxResults")
    token = request.optional("NextToken")
    if size is not None:
        _check_size(size, request, ids)
        size = min(size, largest or size)
    start = _offset(token) if token else 0
    end = len(items) if size is None else start + size
    return items[start:end], _token(end) if end < len(items) else None


def _check_size(size: int, request: Parameters, ids: str) -> None:
    if request.texts(ids):
        raise errors.exclusive_parameters(f"{ids.removesuffix('Ids').lower()}Set", "maxResults")
    if size < _LEAST_PAGE:
        raise errors.invalid_value(f" {size} ", "maxResults", f"Expecting a value greater than {_LEAST_PAGE}.")
    if size > _MOST_PAGE:
        raise errors.invalid_value(f" {size} ", "maxResults", f"Expecting a value less than {_MOST_PAGE}.")


def _token(offset: int) -> str:
    return base64.urlsafe_b64encode(f"emulated:{offset}".encode()).decode()


def _offset(token: str) -> int:
    try:
        prefix, _, offset = base64.urlsafe_b64decode(token).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise errors.bad_token() from None
    if prefix != "emulated" or not offset.isdecimal():
        raise errors.bad_token()
    return int(offset)
