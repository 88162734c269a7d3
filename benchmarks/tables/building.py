"""virt-builder onto a local file, and onto the disk of another machine: the blog post's other table."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.figures import Quantity, Series
from benchmarks.rig import leftovers, readers
from benchmarks.rig.cgroup import group
from benchmarks.rig.execution import ExecutionContext
from benchmarks.rig.network import network
from benchmarks.rig.service import Service, Tables, running_service
from benchmarks.rounds import Attempt, Effort, Measured, take_turns
from cloudmanager.testing.cloud import loop_device
from tests.virt_builder.template import command_with, environment_for_virt_builder, make_system

CASE = "virt-builder, a 1 GiB image"
LOCAL, OVER_NBD = "onto a local file", "onto a disk of another cloudmanager"
DISK_BYTES = 2**30
ROUNDS = 3


def measure(effort: Effort) -> Iterator[Series]:
    with _testbed() as testbed:
        if not effort.is_quick:
            _build(testbed, testbed.home / "first.raw")  # the appliance is made, once
        variants: dict[str, Attempt] = {LOCAL: partial(_local, testbed), OVER_NBD: partial(_over_nbd, testbed)}
        yield from take_turns(CASE, effort.rounds(ROUNDS), variants)


@dataclass(frozen=True)
class _Testbed:
    builder: ExecutionContext
    """Another host than the service's."""
    home: Path
    service: Service


@contextmanager
def _testbed() -> Iterator[_Testbed]:
    with ExitStack() as cleanup:
        home = cleanup.enter_context(leftovers.directory())
        make_system(home / "root")
        environment = {**os.environ, **environment_for_virt_builder(home)}
        template = command_with("our-debian]").replace("64M", f"{DISK_BYTES // 2**20}M")
        subprocess.run(
            ["sh", "-e"], input=template, text=True, check=True, cwd=home, env=environment, capture_output=True
        )
        cables = cleanup.enter_context(network(1))
        builder = ExecutionContext(cleanup.enter_context(group())).on(cables.hosts[0])
        tables: Tables = {"nbd": {"listen": cables.address, "insecure": True}, "exports": {"drain_seconds": 1}}
        yield _Testbed(builder, home, cleanup.enter_context(running_service(tables)))


def _local(testbed: _Testbed) -> Measured:
    image = testbed.home / "local.raw"
    _make_empty(image)
    began = time.perf_counter()
    _build(testbed, image)
    os.sync()
    return {Quantity.SECONDS: time.perf_counter() - began}


def _over_nbd(testbed: _Testbed) -> Measured:
    """Onto a loop device on nbdfuse's file, until the export is closed: all of it is on the disk then."""
    _make_empty(testbed.service.images / "machine.raw")
    began = time.perf_counter()
    export = testbed.service.export("local:machine.raw", access="read-write")
    with readers.as_file(export.uri, testbed.builder, testbed.home / "mounted", as_client=True) as file:
        device = loop_device.attach(file)
        try:
            _build(testbed, device)
        finally:
            loop_device.detach(device, file)
    testbed.service.release(export)
    os.sync()
    return {Quantity.SECONDS: time.perf_counter() - began}


def _make_empty(image: Path) -> None:
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)


def _build(testbed: _Testbed, target: Path) -> None:
    options = ("--no-check-signature", "--no-cache", "--format", "raw", "--hostname", "web01", "--quiet")
    command: list[str | Path] = ["virt-builder", "our-debian", *options, "--output", target]
    kept_here = {"TMPDIR": str(testbed.home)}  # what libguestfs leaves when it is killed
    testbed.builder.run(command, {**os.environ, **environment_for_virt_builder(testbed.home), **kept_here})
