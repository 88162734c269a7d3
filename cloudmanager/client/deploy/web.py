"""An image behind an http or https URL: read by ranges if its server has them, else once from start to end."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloudmanager.client.deploy.compression import LONGEST_MAGIC, detect
from cloudmanager.client.deploy.errors import SourceChanged, SourceError
from cloudmanager.client.deploy.formats import RAW
from cloudmanager.client.deploy.formats import detect as detect_format
from cloudmanager.client.deploy.served_source import served_source
from cloudmanager.client.deploy.stream import Pump, Stream, StreamSource, decompressed

if TYPE_CHECKING:
    import httpx

    from cloudmanager.client.deploy.ends import Source
    from cloudmanager.transfer.libnbd import Patience

_TIMEOUT_SECONDS = 60.0
_CHUNK_BYTES = 256 * 1024
_READ_AHEAD_BYTES = 1024 * 1024


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


@dataclass(frozen=True)
class Resource:
    """What the server says of the image."""

    url: str
    """Where redirections ended."""
    length: int | None
    version: str
    """Its ETag, or when it was changed; empty if the server says neither."""
    has_ranges: bool
    head: bytes

    @property
    def identity(self) -> str:
        return f"{self.url.partition('?')[0]} {self.length} {self.version}" if self.version else ""


@contextmanager
def opened(url: str, patience: "Patience") -> Iterator["Source"]:
    """Raises SourceError, MissingTool, DamagedSource, UnsafeSource."""
    resource = _look(url)
    with ExitStack() as stack:
        if resource.has_ranges and detect(resource.head) is None:
            yield stack.enter_context(_by_ranges(url, resource, patience))
        else:
            yield _streamed(url, resource, patience, stack)


@contextmanager
def _by_ranges(url: str, resource: Resource, patience: "Patience") -> Iterator["Source"]:
    image_format = detect_format(_fetcher(resource.url), resource.length or 0)
    driver = {
        "driver": "https" if resource.url.startswith("https:") else "http",
        "url": resource.url,
        "readahead": _READ_AHEAD_BYTES,
        "timeout": int(_TIMEOUT_SECONDS),
        "read-only": True,
    }
    with served_source(image_format or RAW, driver, resource.identity, _check(url, resource), patience) as source:
        yield source


def _streamed(url: str, resource: Resource, patience: "Patience", stack: ExitStack) -> "Source":
    received = _Received(url)
    pump = Pump(received)
    stack.callback(pump.close)
    compression = detect(resource.head)
    if compression is None:
        stream = Stream(pump.file, at_end=pump.check)
    else:
        stream = stack.enter_context(decompressed(compression, pump.file, pump.check))

    def fraction() -> float | None:
        return received.count / resource.length if resource.length and compression else None

    source = StreamSource(stream, resource.identity, _check(url, resource), fraction)
    source.refuse_container(patience.check)
    return source


class _Received:
    """The body, in chunks, counted."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        with _asking(), _get(self._url, {"Accept-Encoding": "identity"}) as response:
            for chunk in response.iter_raw(_CHUNK_BYTES):
                self.count += len(chunk)
                yield chunk


def _look(url: str) -> Resource:
    headers = {"Range": f"bytes=0-{LONGEST_MAGIC - 1}", "Accept-Encoding": "identity"}
    with _asking(), _get(url, headers) as response:
        head = b""
        for chunk in response.iter_raw():
            head += chunk
            if len(head) >= LONGEST_MAGIC:
                break
        total = response.headers.get("content-range", "").rpartition("/")[2]
        has_ranges = response.status_code == 206 and total.isdigit()
        length = total if has_ranges else response.headers.get("content-length", "")
        version = response.headers.get("etag") or response.headers.get("last-modified") or ""
        return Resource(
            str(response.url), int(length) if length.isdigit() else None, version, has_ranges, head[:LONGEST_MAGIC]
        )


def _fetcher(url: str) -> Callable[[int, int], bytes]:
    def fetch(offset: int, length: int) -> bytes:
        headers = {"Range": f"bytes={offset}-{offset + length - 1}", "Accept-Encoding": "identity"}
        with _asking(), _get(url, headers) as response:
            return response.read()[:length]

    return fetch


def _check(url: str, resource: Resource) -> Callable[[], None]:
    def check() -> None:
        now = _look(url)
        if (now.version, now.length) != (resource.version, resource.length):
            raise SourceChanged(f"{url} was changed while it was read, so the target holds a mixture. Deploy it again.")

    return check


@contextmanager
def _get(url: str, headers: dict[str, str]) -> Iterator["httpx.Response"]:
    import httpx  # noqa: PLC0415 # takes a while, and most images are files

    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=_TIMEOUT_SECONDS) as response:
        response.raise_for_status()
        yield response


@contextmanager
def _asking() -> Iterator[None]:
    import httpx  # noqa: PLC0415 # as above

    try:
        yield
    except httpx.HTTPStatusError as error:
        raise SourceError(f"{error.request.url} answered {error.response.status_code}.") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SourceError(f"The URL cannot be read: {error or type(error).__name__}.") from error
