"""Reading a cached image: our export against a hand-started qemu-nbd, by the same client."""

import subprocess
import time
from pathlib import Path

from benchmarks.measure import Figure, alternate, ratio
from benchmarks.plain import plain_server
from benchmarks.service import Service
from benchmarks.starting import export, release

ROUNDS = 9


def cached_read(service: Service, image: Path) -> list[Figure]:
    """nbdcopy to nowhere, in turn; the ratio is of speeds."""
    with plain_server(image) as plain_uri, service.client() as client:
        made = export(client, image)
        uri = client.get(f"/v1/exports/{made}").json()["uri"]
        copy(uri)
        copy(plain_uri)
        ours, plain = alternate(ROUNDS, lambda _: copy(uri), lambda _: copy(plain_uri))
        release(client, made)
    return [ratio("reading a cached image with nbdcopy (speed)", plain, ours, "s", goal=">= 0.98")]


def copy(uri: str) -> float:
    started = time.perf_counter()
    subprocess.run(["nbdcopy", uri, "null:"], check=True)
    return time.perf_counter() - started
