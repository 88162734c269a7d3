"""A web server for images: with ranges or without, with changes and redirections."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Site:
    """What it serves at /image, and how."""

    image: Path
    has_ranges: bool = True
    etag: str = '"one"'
    url: str = ""
    asked: list[str] = field(default_factory=list)
    cut_after: int | None = None


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
    if request.path == "/moved":
        request.send_response(302)
        request.send_header("Location", site.url)
        request.end_headers()
        return
    if request.path != "/image":
        request.send_error(404)
        return
    size = site.image.stat().st_size
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")) if site.has_ranges else None
    start, end = (int(match[1]), min(int(match[2] or size - 1), size - 1)) if match else (0, size - 1)
    request.send_response(206 if match else 200)
    if site.etag:
        request.send_header("ETag", site.etag)
    request.send_header("Content-Length", str(end - start + 1))
    if site.has_ranges:
        request.send_header("Accept-Ranges", "bytes")
    if match:
        request.send_header("Content-Range", f"bytes {start}-{end}/{size}")
    request.end_headers()
    if with_body:
        _send(request, site, start, end - start + 1)


def _send(request: BaseHTTPRequestHandler, site: Site, start: int, length: int) -> None:
    if site.cut_after is not None and length > site.cut_after:
        length = site.cut_after
        request.close_connection = True
    try:
        with site.image.open("rb") as file:
            file.seek(start)
            while length:
                chunk = file.read(min(length, 1 << 20))
                request.wfile.write(chunk)
                length -= len(chunk)
    except (BrokenPipeError, ConnectionResetError):
        request.close_connection = True
