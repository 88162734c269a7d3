"""`python -m benchmarks`: measures and prints the table."""

import os
import platform
import subprocess
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import reading, starting
from benchmarks.measure import Figure
from benchmarks.service import Service, running_service

SMALL_BYTES = 16 * 2**20
LARGE_BYTES = 2**30
CHUNK_BYTES = 2**20


def main() -> None:
    with running_service() as service:
        figures = measure(service)
    show(figures)


def measure(service: Service) -> list[Figure]:
    small = random_image(service.images / "small.raw", SMALL_BYTES)
    large = random_image(service.images / "large.raw", LARGE_BYTES)
    return [
        *starting.request_to_ready(service, small),
        *starting.hundred_at_once(service, small),
        *reading.cached_read(service, large),
        *starting.footprint(service, small),
    ]


def random_image(path: Path, size_bytes: int) -> Path:
    with path.open("wb") as file:
        for _ in range(size_bytes // CHUNK_BYTES):
            file.write(os.urandom(CHUNK_BYTES))
    return path


def show(figures: list[Figure]) -> None:
    table = Table(title=machine())
    for heading in ("what", "ours / plain qemu-nbd", "goal"):
        table.add_column(heading)
    for figure in figures:
        table.add_row(figure.what, figure.value, figure.goal)
    Console(width=140).print(table)


def machine() -> str:
    version = subprocess.run(["qemu-nbd", "--version"], check=True, capture_output=True, text=True).stdout
    return f"{os.cpu_count()} processors, Linux {platform.release()}, {version.splitlines()[0]}"


if __name__ == "__main__":
    main()
