"""The blob that a disk's access link leads to: read-only, by ranges, opened by the signature in the link."""

import re

from cloudmanager.testing.cloud.azure.disks import access_path
from cloudmanager.testing.cloud.azure.state import Inventory, ManagedDisk
from cloudmanager.testing.cloud.wire import Request, Response

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_LONGEST_ANSWER = 64 * 1024 * 1024


def is_blob(request: Request) -> bool:
    return request.path.startswith("/md-")


def find(inventory: Inventory, request: Request) -> ManagedDisk | None:
    """The disk that the link belongs to; None when the signature opens nothing (any more)."""
    for disk in inventory.disks.values():
        if disk.access_token and request.raw_path == access_path(disk):
            return disk
    return None


def answer(disk: ManagedDisk, request: Request) -> Response:
    """GET with a range, or HEAD."""
    headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", "x-ms-blob-type": "PageBlob"}
    if request.method == "HEAD":
        return Response(200, headers={**headers, "Content-Length": str(disk.size_bytes)})
    match = _RANGE.fullmatch(request.headers.get("Range") or request.headers.get("x-ms-range") or "")
    if match is None:
        return Response(416 if request.headers.get("Range") else 400, headers=headers)
    first = int(match[1])
    last = min(int(match[2] or disk.size_bytes - 1), disk.size_bytes - 1, first + _LONGEST_ANSWER - 1)
    if first > last:
        return Response(416, headers={**headers, "Content-Range": f"bytes */{disk.size_bytes}"})
    with disk.file.open("rb") as file:
        file.seek(first)
        content = file.read(last - first + 1)
    return Response(206, content, {**headers, "Content-Range": f"bytes {first}-{last}/{disk.size_bytes}"})
