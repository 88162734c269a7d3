"""Programs that read all of a disk: what a person would type, and how fast it went."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rig import leftovers
from benchmarks.rig.execution import CommandFailed, ExecutionContext
from benchmarks.rig.meter import slope
from cloudmanager.client.access_methods import fuse_file

MOUNT_SECONDS = 20
_METER = Path(__file__).with_name("meter.py")


@dataclass(frozen=True)
class Latency:
    """Of one request, in milliseconds."""

    typical: float
    high: float
    """The 99th percentile."""


@dataclass(frozen=True)
class Source:
    """What is read: a device, a file, or an NBD address."""

    name: str
    size_bytes: int
    skip_bytes: int = 0
    """Not counted: what a limiter lets through before it limits."""

    @property
    def is_nbd(self) -> bool:
        return self.name.startswith("nbd")


def dd(source: Source, context: ExecutionContext) -> float:
    """Bytes per second. Not of an NBD address: that takes `as_file`."""
    command = ["dd", f"if={source.name}", "bs=1M", "status=none"]
    return (
        _piped(command, source, context) if source.skip_bytes else _timed([*command, "of=/dev/null"], source, context)
    )


def nbdcopy(source: Source, context: ExecutionContext) -> float:
    """Bytes per second."""
    if source.skip_bytes:
        return _piped(["nbdcopy", source.name, "-"], source, context)
    return _timed(["nbdcopy", source.name, "null:"], source, context)


def fio(source: Source, context: ExecutionContext, options: Sequence[str]) -> tuple[float, Latency]:
    """Bytes per second, and the latency of its requests, after its first second where a limiter is skipped."""
    engine = ["--ioengine=nbd", f"--uri={source.name}"]
    if not source.is_nbd:
        engine = ["--ioengine=libaio", f"--filename={source.name}", "--direct=1", "--readonly"]
    with leftovers.directory() as directory:
        limited = ["--ramp_time=1s", f"--write_lat_log={directory / 'log'}"] if source.skip_bytes else []
        size = f"--size={source.size_bytes}"
        printed = context.run(["fio", "--name=read", *engine, size, *limited, *options, "--output-format=json"])
        (job,) = json.loads(printed[printed.index("{") :])["jobs"]
        percentiles = job["read"]["clat_ns"]["percentile"]
        latency = Latency(percentiles["50.000000"] / 1e6, percentiles["99.000000"] / 1e6)
        return _logged_rate(directory / "log_lat.1.log") if limited else job["read"]["bw_bytes"], latency


def _logged_rate(log: Path) -> float:
    """From a line for each request: when it was complete, in ms; its latency; 0 for a read; its size; and more."""
    times: list[float] = []
    totals: list[int] = []
    total = 0
    for line in log.read_text().splitlines():
        milliseconds, _, _, size, *_ = line.split(", ")
        total += int(size)
        times.append(int(milliseconds) / 1000)
        totals.append(total)
    return slope(times, totals)


def sequential(depth: int) -> Sequence[str]:
    """fio's options: so many requests at a time."""
    return ("--rw=read", "--bs=256k", f"--iodepth={depth}")


def random_reads(seconds: int) -> Sequence[str]:
    """fio's options: small requests all over the disk, one at a time."""
    return ("--rw=randread", "--bs=4k", "--iodepth=1", "--time_based", f"--runtime={seconds}s")


@contextmanager
def as_file(uri: str, context: ExecutionContext, directory: Path, *, as_client: bool = False) -> Iterator[Path]:
    """An NBD address as a file, through nbdfuse: as a person types it, or set up as by cloudmanager's client."""
    directory.mkdir(exist_ok=True)
    log, file = directory.with_suffix(".log"), directory / "disk"
    options = ["-C", str(fuse_file.CONNECTIONS), *fuse_file.OPTIONS] if as_client else []
    with log.open("wb") as output:
        process = context.start(["nbdfuse", *options, file, uri], stderr=output)
    try:
        _await_file(file, process, log)
        if as_client:
            fuse_file.read_far_ahead(file)
        yield file
    finally:
        process.terminate()  # it unmounts
        process.wait(timeout=MOUNT_SECONDS)


def _await_file(file: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + MOUNT_SECONDS
    while not file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"nbdfuse does not mount {file}: {log.read_text()}")
        time.sleep(0.005)


def _timed(command: Sequence[str], source: Source, context: ExecutionContext) -> float:
    began = time.perf_counter()
    context.run(command)
    return source.size_bytes / (time.perf_counter() - began)


def _piped(command: Sequence[str], source: Source, context: ExecutionContext) -> float:
    """To the meter, which leaves out what comes first."""
    with context.start(command, stdout=subprocess.PIPE) as reader:
        assert reader.stdout
        meter = [sys.executable, str(_METER), str(source.skip_bytes)]
        printed = subprocess.run(meter, check=True, capture_output=True, text=True, stdin=reader.stdout).stdout
    if reader.returncode:
        raise CommandFailed(command, reader.returncode, "")
    return float(printed)
