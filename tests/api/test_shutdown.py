"""The end of the service, whatever hangs: as a process, with a cloud whose calls hang when they are told to."""

import os
import signal
import stat
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.hanging import VARIABLE, Hook
from tests.api.process import Process, process
from tests.core.nbd.client import Client
from tests.faults.file_cloud import FileCloud
from tests.waiting import eventually

TIMEOUT_SECONDS = 40.0
"""For a process that must end. On this machine it may have to wait for its turn."""
BOUND = 2.0
SIZE = 1 << 20
SILENT = """
import os, sys
from pathlib import Path
Path("{}").touch()
os.execv(sys.executable, ["qemu-nbd", "-c", "import signal; signal.pause()", *sys.argv[1:]])
"""
"""Is called and looks as qemu-nbd does, and never answers."""


@dataclass
class Site:
    """A service that can be stopped and started again, and its cloud."""

    directory: Path

    def __post_init__(self) -> None:
        self.file_cloud = FileCloud(self.directory / "files")
        for name in ("a.img", "b.img"):
            (self.file_cloud.disks / name).write_bytes(name.encode().ljust(16) * (SIZE // 16))
        metadata = self.directory / "site" / "hanging-1.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hanging\nVersion: 1\n")
        (metadata / "entry_points.txt").write_text("[cloudmanager.plugins]\nhanging = tests.api.hanging\n")
        self.environment = {"PYTHONPATH": str(metadata.parent), VARIABLE: str(self.directory / "files")}

    def hook(self, name: str) -> Hook:
        return Hook(self.directory / "files", name)

    @contextmanager
    def serving(
        self, *, bound: float = BOUND, nbd: dict[str, object] | None = None, **exports: object
    ) -> "Iterator[Run]":
        tables: dict[str, Any] = {
            "server": {"shutdown_seconds": bound},
            "exports": {"drain_seconds": 3600, **exports},
            "nbd": nbd or {},
            "providers": {"slow": {"type": "hanging"}},
        }
        with process(self.directory, environment=self.environment, **tables) as started:
            with httpx.Client(base_url=started.address(), timeout=TIMEOUT_SECONDS) as client:
                yield Run(started, client)


@dataclass
class Run:
    """One run of the service."""

    process: Process
    client: httpx.Client

    def export(self, disk: str = "slow:a.img", wait: int = 20) -> httpx.Response:
        headers = {"Prefer": f"wait={wait}"} if wait else {}
        return self.client.post("/v1/exports", json={"disk": disk, "holder": "tester"}, headers=headers)

    def ready(self, disk: str = "slow:a.img") -> dict[str, str]:
        export: dict[str, str] = self.export(disk).json()
        assert export["state"] == "ready", export
        return export

    def get(self, path: str) -> dict[str, object]:
        found: dict[str, object] = self.client.get(path).json()
        return found

    def release_all(self) -> None:
        for export in self.get("/v1/exports")["items"]:  # type: ignore[attr-defined]
            self.client.post(f"/v1/exports/{export['id']}/force-release", json={})
        eventually(lambda: not self.get("/v1/attachments")["items"], "disks stay attached", TIMEOUT_SECONDS)

    def stop(self) -> None:
        self.process.popen.send_signal(signal.SIGTERM)

    def ended(self) -> int:
        return self.process.popen.wait(TIMEOUT_SECONDS)

    def log(self) -> str:
        eventually(lambda: self.process.popen.poll() is not None, "it has not ended")
        return "".join(self.process.lines)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    for name in ("node", "describe", "attach", "detach"):
        site.hook(name).go_on()


def connected(export: dict[str, str]) -> Client:
    port, name = export["uri"].removeprefix("nbd://127.0.0.1:").split("/")
    return Client.greeted(int(port), name)


def test_exports_are_served_on_and_a_request_that_hangs_is_told_to_come_again(site: Site) -> None:
    with site.serving() as run:
        export = run.ready()
        with connected(export) as client, ThreadPoolExecutor(1) as pool:
            site.hook("describe").hang()
            request = pool.submit(run.export, "slow:b.img")
            eventually(lambda: site.hook("describe").is_called, "it is not asked")
            run.stop()
            answer = request.result()
            assert (answer.status_code, answer.json()["code"], answer.json()["retriable"]) == (
                503,
                "shutting_down",
                True,
            )
            assert int(answer.headers["Retry-After"]) > 0
            assert run.ended() == 0
            assert client.read(0, 16) == b"a.img".ljust(16)
    site.hook("describe").go_on()
    with site.serving() as run:
        assert run.get(f"/v1/exports/{export['id']}")["uri"] == export["uri"]
        run.release_all()


def test_an_attach_that_hangs_is_left_to_the_next_start_which_takes_it_up(site: Site) -> None:
    site.hook("attach").hang()
    with site.serving() as run:
        export = run.export(wait=0).json()
        eventually(lambda: site.hook("attach").is_called, "it is not attached")
        run.stop()
        assert run.ended() == 0
        assert "left to the next start: files:a.img" in run.log()
    site.hook("attach").go_on()
    with site.serving() as run:
        answer = run.client.get(f"/v1/exports/{export['id']}", headers={"Prefer": "wait=20"})
        assert answer.json()["state"] == "ready"
        run.release_all()
    assert not site.file_cloud.holders()


def test_a_server_that_does_not_answer_is_left_to_the_next_start(site: Site, tmp_path: Path) -> None:
    started = tmp_path / "started"
    silent = tmp_path / "programs" / "qemu-nbd"
    silent.parent.mkdir()
    silent.write_text(f"#!{sys.executable}\n{SILENT.format(started)}")
    silent.chmod(stat.S_IRWXU)
    path = os.environ["PATH"]
    site.environment["PATH"] = f"{silent.parent}:{path}"
    with site.serving(nbd={"sandbox": "none", "start_timeout_seconds": 600}) as run:
        export = run.export(wait=0).json()
        eventually(started.exists, "it is not started", TIMEOUT_SECONDS)
        run.stop()
        assert run.ended() == 0
    site.environment["PATH"] = path
    with site.serving(nbd={"sandbox": "none", "start_timeout_seconds": 1}) as run:
        answer = run.client.get(f"/v1/exports/{export['id']}", headers={"Prefer": "wait=30"})
        assert answer.json()["state"] == "ready"
        run.release_all()


def test_a_start_that_hangs_is_ended_too(site: Site) -> None:
    site.hook("node").hang()
    with process(
        site.directory, environment=site.environment, server={"shutdown_seconds": BOUND}, providers=HANGING
    ) as started:
        eventually(lambda: site.hook("node").is_called, "it is not asked", TIMEOUT_SECONDS)
        started.popen.terminate()
        assert started.popen.wait(TIMEOUT_SECONDS) == 0


HANGING = {"slow": {"type": "hanging"}}


def test_closing_ends_every_export_and_detaches_every_disk_even_one_that_lingers(site: Site) -> None:
    with site.serving(bound=60, on_shutdown="close", linger_seconds=3600) as run:
        lingering = run.ready("slow:b.img")
        run.client.delete(f"/v1/exports/{lingering['id']}")
        export = run.ready()
        assert site.file_cloud.holders().keys() == {"a.img", "b.img"}
        run.stop()
        assert run.ended() == 0
        assert "left to the next start" not in run.log()
    assert not site.file_cloud.holders()
    with site.serving() as run:
        assert run.get(f"/v1/exports/{export['id']}")["state"] == "closed"


def test_closing_lets_clients_finish_and_takes_no_new_ones(site: Site) -> None:
    with site.serving(bound=60, on_shutdown="close") as run:
        export = run.ready()
        with connected(export) as client:
            run.stop()
            eventually(lambda: run.get(f"/v1/exports/{export['id']}")["state"] == "closing", "it is not closed")
            refused = run.export("slow:b.img")
            assert (refused.status_code, refused.json()["code"]) == (503, "shutting_down")
            assert refused.headers["Retry-After"]
            assert run.client.get("/readyz").status_code == 503
            assert client.read(0, 16) == b"a.img".ljust(16)
        assert run.ended() == 0
    assert not site.file_cloud.holders()


def test_what_cannot_be_closed_in_time_is_named_and_left_to_the_next_start(site: Site) -> None:
    site.hook("detach").hang()
    with site.serving(on_shutdown="close") as run:
        gone, used = run.ready(), run.ready("slow:b.img")
        with connected(used) as client:
            run.stop()
            assert run.ended() == 0
            assert client.read(0, 16) == b"b.img".ljust(16)
        assert "left to the next start: slow:a.img is detaching" in run.log()
        assert f"left to the next start: export {used['id']} of slow:b.img is closing" in run.log()
    site.hook("detach").go_on()
    with site.serving() as run:
        eventually(lambda: not site.file_cloud.holders(), "disks stay attached", TIMEOUT_SECONDS)
        assert {run.get(f"/v1/exports/{each['id']}")["state"] for each in (gone, used)} == {"closed"}


@pytest.mark.parametrize("second", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_second_signal_ends_it_at_once(site: Site, second: int) -> None:
    with site.serving(bound=3600, on_shutdown="close") as run:
        export = run.ready()
        with connected(export):
            run.stop()
            eventually(lambda: run.get(f"/v1/exports/{export['id']}")["state"] == "closing", "it is not closed")
            run.process.popen.send_signal(second)
            assert run.ended() == -second
    with site.serving() as run:
        run.release_all()
