"""`python -m benchmarks.ways`: reading a cached disk by each way, as ratios against reading its image directly.

All in one run and in turn, so that a machine whose speed drifts slows every way.
"""

import functools
import os
import platform
import random
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cloudmanager.client import ways
from cloudmanager.client.address import Credentials, NbdAddress
from cloudmanager.client.ways import kernel_device
from cloudmanager.core.model import Access, Device, FileIdentity
from cloudmanager.core.nbd import Servers, ServerSpec, new_export_name
from cloudmanager.core.settings import NbdSettings

SIZE_BYTES = 512 * 2**20
ROUNDS = 7
SMALL_READS = 2000
SMALL_BYTES = 4096


@dataclass(frozen=True)
class Reader:
    """A way to read, and what it is measured against: the first of its kind."""

    name: str
    kind: str
    read: Callable[[], object]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="cm-ways-") as name, ExitStack() as stack:
        directory = Path(name)
        image = directory / "disk.raw"
        image.write_bytes(os.urandom(SIZE_BYTES))
        print_table(measure(list(readers(stack, directory, image))))


def readers(stack: ExitStack, directory: Path, image: Path) -> Iterator[Reader]:
    clear = stack.enter_context(export(image, directory / "clear", "off"))
    with_key = stack.enter_context(export(image, directory / "tls", "psk"))
    paths = {
        "the image itself": image,
        "file": stack.enter_context(ways.file(clear)).path,
        "file, TLS": stack.enter_context(ways.file(with_key)).path,
    }
    if kernel_device.obstacle(clear) is None:
        paths["device"] = stack.enter_context(ways.device(clear)).path
    stub = stack.enter_context(ways.stub(clear, directory / "stub.qcow2")).path
    for name, path in paths.items():
        yield Reader(name, "all of it, dd", functools.partial(dd, path))
    for name, path in paths.items():
        yield Reader(name, f"{SMALL_READS} reads of 4 KiB anywhere", functools.partial(read_anywhere, path))
    yield Reader("the image itself", "all of it, qemu-img", lambda: qemu_img(image, "raw"))
    yield Reader("stub", "all of it, qemu-img", lambda: qemu_img(stub, "qcow2"))


def measure(each: list[Reader]) -> list[tuple[Reader, float, float]]:
    """Reader, median in seconds, and how many times the time of the first of its kind."""
    for reader in each:
        reader.read()
    taken: dict[Reader, list[float]] = {reader: [] for reader in each}
    for _ in range(ROUNDS):
        for reader in each:
            started = time.perf_counter()
            reader.read()
            taken[reader].append(time.perf_counter() - started)
    medians = {reader: statistics.median(seconds) for reader, seconds in taken.items()}
    first: dict[str, float] = {}
    for reader in each:
        first.setdefault(reader.kind, medians[reader])
    return [(reader, medians[reader], medians[reader] / first[reader.kind]) for reader in each]


def print_table(rows: list[tuple[Reader, float, float]]) -> None:
    """Markdown, for docs/three-ways.md."""
    print(f"{machine()}; {SIZE_BYTES >> 20} MiB, medians of {ROUNDS}\n")
    print("| read | by | seconds | times |\n|---|---|---|---|")
    for reader, seconds, ratio in rows:
        print(f"| {reader.kind} | {reader.name} | {seconds:.3f} | {ratio:.1f} |")


def machine() -> str:
    return f"{os.cpu_count()} processors, Linux {platform.release()}"


@contextmanager
def export(image: Path, directory: Path, tls: Literal["off", "psk"]) -> Iterator[NbdAddress]:
    """As cloudmanager serves it: plain qemu-nbd takes 40 ms for a small read over TCP (Nagle's algorithm)."""
    servers = Servers(NbdSettings(tls=tls), directory, scratch_limit_bytes=0, on_exit=lambda _: None)
    export_id = str(uuid.uuid4())
    status = image.stat()
    identity = FileIdentity(status.st_dev, status.st_ino)
    disk = Device(str(image), status.st_size, identity)
    spec = ServerSpec(export_id, new_export_name(), servers.reserve(export_id), Access.READ_ONLY, disk)
    try:
        servers.start(spec)
        key = servers.credentials(export_id)
        credentials = Credentials(key.username, key.key) if key else None
        yield NbdAddress(servers.uri(spec.name, spec.port), credentials)
    finally:
        servers.stop(export_id)
        servers.close()


def dd(path: Path) -> None:
    subprocess.run(["dd", f"if={path}", "of=/dev/null", "bs=1M", "status=none"], check=True)


def qemu_img(path: Path, form: str) -> None:
    target = f"driver=null-co,size={SIZE_BYTES}"
    command = ["qemu-img", "convert", "-n", "-f", form, "--target-image-opts", str(path), target]
    subprocess.run(command, check=True)


def read_anywhere(path: Path) -> None:
    places = random.Random(0)  # noqa: S311 - the same places for each
    with path.open("rb", buffering=0) as file:
        for _ in range(SMALL_READS):
            file.seek(places.randrange(SIZE_BYTES // SMALL_BYTES) * SMALL_BYTES)
            file.read(SMALL_BYTES)


if __name__ == "__main__":
    main()
