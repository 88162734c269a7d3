"""A web server for images: with ranges or without, with changes and redirections."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO


@dataclass
class Site:
    """What it serves at /image, and how."""

    image: Path
    has_ranges: bool = True
    etag: str = '"one"'
    url: str = ""
    asked: list[str] = field(default_factory=list)
    cut_after: int | None = None
    """Bytes of an answer, after which the connection ends."""
    cuts: int = 1 << 30
    """How many answers are cut."""
    announces_ranges: bool = True
    """Whether it has Accept-Ranges."""
    leads_to: str = ""
    """Where /elsewhere is."""
    secret: str = ""
    """A query without which nothing is answered but 403; HEAD is not answered either."""
    says_length: bool = True
    length: str | None = None
    """What it says of it that is not true."""
    name: str = "image"
    busy: int = 0
    """How many requests are answered 503."""
    then: Callable[[], object] = lambda: None
    """Called when an answer is cut."""
    credentials: list[str] = field(default_factory=list)


@contextmanager
def serving_web(image: Path) -> Iterator[Site]:
    site = Site(image)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            _answer(self, site, with_body=False)

        def do_GET(self) -> None:
            _answer(self, site, with_body=True)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site.url = f"http://127.0.0.1:{server.server_port}/image"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


def _answer(request: BaseHTTPRequestHandler, site: Site, *, with_body: bool) -> None:
    site.asked.append(request.headers.get("Range", ""))
    site.credentials.append(request.headers.get("Authorization", ""))
    path, _, query = request.path.partition("?")
    if path in ("/moved", "/elsewhere"):
        request.send_response(302)
        request.send_header("Location", site.url if path == "/moved" else site.leads_to)
        request.end_headers()
        return
    if query != site.secret or (site.secret and not with_body):
        request.send_error(403)
        return
    if site.busy:
        site.busy -= 1
        request.send_error(503)
        return
    if path != f"/{site.name}":
        request.send_error(404)
        return
    size = site.image.stat().st_size
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")) if site.has_ranges else None
    start, end = (int(match[1]), min(int(match[2] or size - 1), size - 1)) if match else (0, size - 1)
    request.send_response(206 if match else 200)
    if site.etag:
        request.send_header("ETag", site.etag)
    if site.says_length:
        request.send_header("Content-Length", str(end - start + 1) if site.length is None else site.length)
    else:
        request.close_connection = True
    if site.has_ranges and site.announces_ranges:
        request.send_header("Accept-Ranges", "bytes")
    if match:
        request.send_header("Content-Range", f"bytes {start}-{end}/{size}")
    request.end_headers()
    if with_body:
        _send(request, site, start, end - start + 1)


def _send(request: BaseHTTPRequestHandler, site: Site, start: int, length: int) -> None:
    with suppress(BrokenPipeError, ConnectionResetError), site.image.open("rb") as file:
        file.seek(start)
        is_cut = site.cut_after is not None and length > site.cut_after and site.cuts > 0
        if is_cut:
            site.cuts -= 1
        _copy(request, file, site.cut_after or 0 if is_cut else length)
        if is_cut:
            site.then()
            request.close_connection = True


def _copy(request: BaseHTTPRequestHandler, file: BinaryIO, length: int) -> None:
    while length:
        chunk = file.read(min(length, 1 << 20))
        request.wfile.write(chunk)
        length -= len(chunk)
