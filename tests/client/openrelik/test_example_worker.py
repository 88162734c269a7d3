"""The example worker, as it stands: a real Celery worker process, Redis, and a disk in an emulated cloud."""

from __future__ import annotations

import base64
import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery.app import Celery
from celery.result import AsyncResult

from cloudmanager.testing.cloud.gce import Emulation
from tests.checkout import ROOT
from tests.client.daemon import Daemon
from tests.waiting import eventually

EXAMPLE = ROOT / "docs" / "examples" / "openrelik-worker-cloud-disk"
QUEUE = "openrelik-worker-cloud-disk"
TASK = f"{QUEUE}.tasks.list_files"
RESULT_SECONDS = 90


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("redis")
    socket = directory / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            client = redis.Redis(unix_socket_path=str(socket))
            eventually(socket.exists)
            eventually(client.ping)
            client.close()  # type: ignore[no-untyped-call] # redis-py's
            yield f"redis+socket://{socket}"
        finally:
            server.terminate()


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory of programs that the worker takes before those of the machine."""
    directory = tmp_path / "programs"
    directory.mkdir()
    return directory


@pytest.fixture
def worker(redis_url: str, daemon: Daemon, programs: Path, tmp_path: Path) -> Iterator[Celery]:
    """An application to send tasks with."""
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "AGAIN_SECONDS": "0.1",
        "REDIS_URL": redis_url,
        "CLOUDMANAGER_URL": daemon.url,
        "CLOUDMANAGER_RUN_DIR": str(tmp_path / "run"),
    }
    here = shutil.copytree(EXAMPLE, tmp_path / "worker")
    command = [sys.executable, "-m", "celery", "--app=src.app", "worker", "--concurrency=1", "-Q", QUEUE]
    with (tmp_path / "worker.log").open("wb") as log:
        with subprocess.Popen(command, cwd=here, env=environment, stdout=log, stderr=log) as process:
            with Celery(broker=redis_url, backend=redis_url) as sender:
                try:
                    yield sender
                finally:
                    gc.collect()  # results of Celery's speak to Redis once more when they are collected
                    process.terminate()
                    process.wait(RESULT_SECONDS)


def ask(worker: Celery, output: Path, input_files: list[dict[str, object]], **config: object) -> dict[str, Any]:
    return answered(begin(worker, output, input_files, **config))


def begin(worker: Celery, output: Path, input_files: list[dict[str, object]], **config: object) -> AsyncResult[str]:
    output.mkdir()
    arguments = {
        "input_files": input_files,
        "output_path": str(output),
        "workflow_id": "workflow-1",
        "task_config": config,
    }
    return worker.send_task(TASK, kwargs=arguments, queue=QUEUE)


def answered(asked: AsyncResult[str]) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(base64.b64decode(asked.get(timeout=RESULT_SECONDS)))
    return decoded


def test_it_lists_the_files_of_a_cloud_disk_deleted_ones_included(
    worker: Celery, cloud: Emulation, evidence: str, gcp_disk: dict[str, object], tmp_path: Path
) -> None:
    result = ask(worker, tmp_path / "all", [gcp_disk])
    [output] = result["output_files"]
    listed = Path(output["path"]).read_text()
    assert "report.txt" in listed
    assert any("*" in line and "secret.txt" in line for line in listed.splitlines())
    assert (result["workflow_id"], output["source_file_id"]) == ("workflow-1", 7)
    eventually(lambda: cloud.holders(evidence) == [])


FLS_THAT_WAITS_ONCE = """#!/bin/sh
if mkdir begun 2>/dev/null; then
    while [ ! -e go-on ]; do sleep 0.05; done
fi
exec {fls} "$@"
"""


def test_a_disk_that_is_lost_in_the_middle_is_listed_by_another_attempt(
    worker: Celery, daemon: Daemon, programs: Path, gcp_disk: dict[str, object], tmp_path: Path
) -> None:
    slow = programs / "fls"
    slow.write_text(FLS_THAT_WAITS_ONCE.format(fls=shutil.which("fls")))
    slow.chmod(0o755)
    asked = begin(worker, tmp_path / "again", [gcp_disk])
    eventually((tmp_path / "worker/begun").exists, seconds=RESULT_SECONDS)
    [first] = live(daemon)
    daemon.release(first)
    eventually(lambda: daemon.state_of(first) == "closed")
    (tmp_path / "worker/go-on").touch()

    [output] = answered(asked)["output_files"]
    assert "report.txt" in Path(output["path"]).read_text()
    eventually(lambda: not live(daemon))
    assert len([export for export in daemon.exports() if export["holder"] == f"openrelik-{asked.id}"]) == 2


def live(daemon: Daemon) -> list[str]:
    return [str(export["id"]) for export in daemon.exports() if export["state"] not in ("closed", "failed")]


def test_one_disk_that_fails_is_in_the_report_and_the_others_are_listed(
    worker: Celery, gcp_disk: dict[str, object], describe: Any, tmp_path: Path
) -> None:
    missing = describe("cloud:gcp:disk", {"disk_name": "evidence-8"})
    result = ask(worker, tmp_path / "some", [missing, gcp_disk], deleted_only=True)
    [output] = result["output_files"]
    listed = Path(output["path"]).read_text()
    assert "secret.txt" in listed
    assert "report.txt" not in listed
    assert "evidence-8" in result["task_report"]["content"]
    assert "1 disks listed, 1 could not be" in result["task_report"]["summary"]
