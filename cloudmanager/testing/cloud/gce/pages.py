"""Pages of a list."""

import base64
import binascii
from collections.abc import Sequence
from typing import TypeVar

from cloudmanager.testing.cloud.gce.asked import Asked
from cloudmanager.testing.cloud.gce.refusals import invalid, refusal

Item = TypeVar("Item")
LARGEST = 500


def page(items: Sequence[Item], asked: Asked) -> tuple[Sequence[Item], str | None]:
    """The items that `maxResults` and `pageToken` ask for, or fewer, and the token of the next page."""
    query = asked.parameters
    size = int(query.get("maxResults", LARGEST))
    if size > LARGEST:
        raise invalid("maxResults", str(size), f"Value must be between 0 and {LARGEST}, inclusive.")
    start = _position(query["pageToken"]) if query.get("pageToken") else 0
    end = start + min(size or LARGEST, asked.largest_page or LARGEST)
    return items[start:end], _token(end) if end < len(items) else None


def _token(position: int) -> str:
    return base64.urlsafe_b64encode(f"after:{position}".encode()).decode()


def _position(token: str) -> int:
    try:
        word, _, position = base64.urlsafe_b64decode(token).decode().partition(":")
        if word == "after":
            return int(position)
    except (ValueError, binascii.Error):
        pass
    raise refusal(400, "invalid", f"Invalid value for field 'pageToken': '{token}'. The page token is invalid.")
