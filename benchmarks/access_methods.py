"""`python -m benchmarks.access_methods`: reading a cached disk by each method, as ratios against reading its image.

It writes both tables into docs/access-methods.md.

All in one run and in turn, so that a machine whose speed drifts slows every method. The kernel's own device, which
this machine may not have, is measured in the virtual machine of tests/vm, beside the file and the stub. There a
second is worth nothing, since the processor is emulated; the ratios show which method costs more.

`python -m benchmarks.access_methods inside` is what runs in that machine.
"""

import functools
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cloudmanager.client import access_methods
from cloudmanager.client.access_methods import kernel_device
from cloudmanager.client.address import Credentials, NbdAddress
from cloudmanager.client.signals import unwinding_on_sigterm
from cloudmanager.core.model import Access, Device, FileIdentity
from cloudmanager.core.nbd import Servers, ServerSpec
from cloudmanager.core.records import new_export_name
from cloudmanager.core.settings import NbdSettings

PAGE = Path(__file__).parents[1] / "docs/access-methods.md"
HEADING = "| read | by | seconds | times |\n|---|---|---|---|\n"
SMALL_BYTES = 4096
INSIDE = "inside"
INSIDE_SECONDS = 400


@dataclass(frozen=True)
class Scale:
    """How much is read, and how often."""

    size_bytes: int
    small_reads: int
    rounds: int


HERE = Scale(512 * 2**20, 2000, 7)
EMULATED = Scale(16 * 2**20, 200, 5)


@dataclass(frozen=True)
class Reader:
    """An access method, and what it is measured against: the first of its kind."""

    name: str
    kind: str
    read: Callable[[], object]


@dataclass(frozen=True)
class Row:
    kind: str
    name: str
    seconds: float
    """The median."""
    ratio: float
    """How many times the time of the first of its kind."""


def main() -> None:
    if sys.argv[1:] == [INSIDE]:
        print(json.dumps([vars(row) for row in measured(EMULATED)]))
        return
    with unwinding_on_sigterm():
        write_tables()


def write_tables() -> None:
    tables = []
    machines: tuple[tuple[str, Scale, Callable[[], list[Row]]], ...] = (
        (machine(), HERE, lambda: measured(HERE)),
        (f"a virtual machine on {machine()}, emulated in software", EMULATED, measured_inside),
    )
    for what, scale, measure_it in machines:
        tables.append(table(f"Taken on {what}: {description(scale)}.", measure_it()))
        print(tables[-1], flush=True)
    PAGE.write_text(filled(PAGE.read_text(), tables))


def measured(scale: Scale) -> list[Row]:
    """Of this machine."""
    with tempfile.TemporaryDirectory(prefix="cm-variants-") as name, ExitStack() as stack:
        directory = Path(name)
        image = directory / "disk.raw"
        image.write_bytes(os.urandom(scale.size_bytes))
        return measure(list(readers(stack, directory, image, scale)), scale.rounds)


def readers(stack: ExitStack, directory: Path, image: Path, scale: Scale) -> Iterator[Reader]:
    clear = stack.enter_context(export(image, directory / "clear", "off"))
    paths = {"the image itself": image}
    if kernel_device.obstacle(clear) is None:
        paths["device"] = stack.enter_context(access_methods.device(clear)).path
    paths["file"] = stack.enter_context(access_methods.file(clear)).path
    if scale is HERE:
        with_key = stack.enter_context(export(image, directory / "tls", "psk"))
        paths["file, TLS"] = stack.enter_context(access_methods.file(with_key)).path
    stub = stack.enter_context(access_methods.stub(clear, directory / "stub.qcow2")).path
    for name, path in paths.items():
        yield Reader(name, "all of it, dd", functools.partial(dd, path))
    for name, path in paths.items():
        read = functools.partial(read_anywhere, path, scale)
        yield Reader(name, f"{scale.small_reads} reads of 4 KiB anywhere", read)
    yield Reader("the image itself", "all of it, qemu-img", functools.partial(qemu_img, image, "raw", scale))
    yield Reader("stub", "all of it, qemu-img", functools.partial(qemu_img, stub, "qcow2", scale))


def measure(each: list[Reader], rounds: int) -> list[Row]:
    for reader in each:
        reader.read()
    taken: dict[Reader, list[float]] = {reader: [] for reader in each}
    for _ in range(rounds):
        for reader in each:
            started = time.perf_counter()
            reader.read()
            taken[reader].append(time.perf_counter() - started)
    medians = {reader: statistics.median(seconds) for reader, seconds in taken.items()}
    first: dict[str, float] = {}
    for reader in each:
        first.setdefault(reader.kind, medians[reader])
    return [Row(reader.kind, reader.name, medians[reader], medians[reader] / first[reader.kind]) for reader in each]


def measured_inside() -> list[Row]:
    """Of the virtual machine, which boots for it; its image is made if there is none yet."""
    from tests.vm.code import make_code, make_image  # noqa: PLC0415 - the machine itself has no tests
    from tests.vm.virtual_machine import VirtualMachine  # noqa: PLC0415 - as above

    with tempfile.TemporaryDirectory(prefix="cm-variants-") as name:
        directory = Path(name)
        here = Path(__file__)
        code = make_code(directory, here, here.with_name("__init__.py"))
        with VirtualMachine(directory, make_image(), code, []) as vm:
            vm.agent.read("for module in nbd loop fuse; do modprobe $module; done; udevadm settle")
            python = "PATH=/usr/sbin:/usr/bin PYTHONPATH=/opt/code:/opt/site python3"
            printed = vm.agent.read(f"{python} -m {__spec__.name} {INSIDE}", timeout=INSIDE_SECONDS)
    return [Row(**row) for row in json.loads(printed.splitlines()[-1])]


def table(caption: str, rows: list[Row]) -> str:
    """Markdown."""
    cells = [f"| {row.kind} | {row.name} | {row.seconds:.3f} | {row.ratio:.1f} |\n" for row in rows]
    return "".join([f"{caption}\n\n{HEADING}", *cells])


def filled(page: str, tables: list[str]) -> str:
    """With these in place of its tables, in their order. Raises ValueError if it has more or fewer."""
    parts = re.split(rf"^(?:Taken on .*\n\n)?{re.escape(HEADING)}(?:\|.*\n)*", page, flags=re.MULTILINE)
    pairs = zip(parts, [*tables, ""], strict=True)
    return "".join(text for pair in pairs for text in pair)


def machine() -> str:
    return f"{os.cpu_count()} processors, Linux {platform.release().partition('-')[0]}"


def description(scale: Scale) -> str:
    return f"{scale.size_bytes >> 20} MiB, medians of {scale.rounds}"


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
    forget(path)
    subprocess.run(["dd", f"if={path}", "of=/dev/null", "bs=1M", "status=none"], check=True)


def qemu_img(path: Path, form: str, scale: Scale) -> None:
    target = f"driver=null-co,size={scale.size_bytes}"
    command = ["qemu-img", "convert", "-n", "-f", form, "--target-image-opts", str(path), target]
    subprocess.run(command, check=True)


def read_anywhere(path: Path, scale: Scale) -> None:
    forget(path)
    offsets = random.Random(0)  # noqa: S311 - the same offsets for each
    with path.open("rb", buffering=0) as file:
        for _ in range(scale.small_reads):
            file.seek(offsets.randrange(scale.size_bytes // SMALL_BYTES) * SMALL_BYTES)
            file.read(SMALL_BYTES)


def forget(path: Path) -> None:
    """What the kernel remembers of a device or of nbdfuse's file, which it would not ask the server for again."""
    if path.is_block_device() or path.parent.is_mount():
        with path.open("rb") as served:
            os.posix_fadvise(served.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
