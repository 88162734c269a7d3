"""From a request to a served disk: one at a time, and a hundred at once."""

import os
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import httpx

from benchmarks.measure import Figure, alternate, ratio
from benchmarks.plain import free_ports, pid_directory, start_line, stop_all
from benchmarks.service import Service

ONE_BY_ONE = 50
AT_ONCE = 100
CLIENTS = 16
ROUNDS = 5
Made = TypeVar("Made")


def request_to_ready(service: Service, image: Path) -> list[Figure]:
    """Median of 50 exports, each asked for and awaited, against 50 starts by shell."""
    with pid_directory() as pids, service.client() as client:
        line = start_line(image, pids)
        ours, plain = alternate(
            ONE_BY_ONE,
            lambda _: timed(lambda: export(client, image), lambda made: release(client, made)),
            lambda _: plain_start(line, free_ports(1)[0], pids),
        )
    difference = (statistics.median(ours) - statistics.median(plain)) * 1000
    return [
        ratio("request to ready, one at a time", ours, plain, "s", goal="<= 1.5, or 40 ms more"),
        Figure("  the difference", f"{difference:.1f} ms"),
    ]


def hundred_at_once(service: Service, image: Path) -> list[Figure]:
    """100 exports by 16 clients, all ready, against a shell loop that starts 100 with 16 in parallel."""
    before = cpu_seconds(service.pid)
    with pid_directory() as pids:
        loop = f"xargs -P {CLIENTS} -n 1 sh -c '{start_line(image, pids)}' sh"
        ours, plain = alternate(
            ROUNDS,
            lambda _: many_exports(service, image),
            lambda _: many_plain(loop, free_ports(AT_ONCE), pids),
        )
    spent = (cpu_seconds(service.pid) - before) / ROUNDS
    return [
        ratio(f"{AT_ONCE} exports by {CLIENTS} clients, all ready", ours, plain, "s", goal="<= 2.5, aim 1.3"),
        Figure("  the daemon's processor time for them, releases included", f"{spent:.2f} s"),
    ]


def footprint(service: Service, image: Path) -> list[Figure]:
    """The daemon's memory with 100 exports, and its processor time over ten idle seconds."""
    with service.client() as client:
        made = [export(client, image) for _ in range(AT_ONCE)]
        resident = resident_mib(service.pid)
        before = cpu_seconds(service.pid)
        time.sleep(10)
        idle = cpu_seconds(service.pid) - before
        for each in made:
            release(client, each)
    return [
        Figure(f"daemon's resident memory with {AT_ONCE} exports", f"{resident:.0f} MiB", goal="< 130 MB"),
        Figure("daemon's processor time in 10 idle seconds", f"{idle * 1000:.0f} ms", goal="near zero"),
    ]


def many_exports(service: Service, image: Path) -> float:
    with service.client() as client:
        started = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            made = list(pool.map(lambda _: export(client, image), range(AT_ONCE)))
        took = time.perf_counter() - started
        for each in made:
            release(client, each)
        return took


def plain_start(line: str, port: int, pids: Path) -> float:
    return timed(lambda: subprocess.run(["sh", "-c", line, "sh", str(port)], check=True), lambda _: stop_all(pids))


def many_plain(loop: str, ports: list[int], pids: Path) -> float:
    numbers = "\n".join(map(str, ports))
    return timed(
        lambda: subprocess.run(["sh", "-c", loop], input=numbers, text=True, check=True), lambda _: stop_all(pids)
    )


def export(client: httpx.Client, image: Path) -> str:
    """Asks for an export and returns its id once it is ready."""
    request = {"disk": f"local:{image.name}", "access": "read-only", "holder": "benchmark"}
    answer = client.post("/v1/exports", json=request, headers={"Prefer": "wait=60"}).raise_for_status().json()
    assert answer["state"] == "ready", answer
    return str(answer["id"])


def release(client: httpx.Client, export_id: str) -> None:
    client.delete(f"/v1/exports/{export_id}").raise_for_status()
    while client.get(f"/v1/exports/{export_id}").json()["state"] == "closing":
        time.sleep(0.005)


def timed(work: Callable[[], Made], undo: Callable[[Made], None]) -> float:
    started = time.perf_counter()
    made = work()
    took = time.perf_counter() - started
    undo(made)
    return took


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
