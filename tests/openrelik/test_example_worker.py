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

from cloudmanager.testing.cloud.gce import Emulation
from tests.client.daemon import Daemon, eventually

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "openrelik-worker-cloud-disk"
QUEUE = "openrelik-worker-cloud-disk"
TASK = f"{QUEUE}.tasks.list_files"
RESULT_SECONDS = 60


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("redis")
    socket = directory / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--dir", directory]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            client = redis.Redis(unix_socket_path=str(socket))
            eventually(socket.exists)
            eventually(client.ping)
            client.close()
            yield f"redis+socket://{socket}"
        finally:
            server.terminate()


@pytest.fixture
def worker(redis_url: str, daemon: Daemon, tmp_path: Path) -> Iterator[Celery]:
    """An application to send tasks with."""
    environment = {
        **os.environ,
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
    output.mkdir()
    arguments = {
        "input_files": input_files,
        "output_path": str(output),
        "workflow_id": "workflow-1",
        "task_config": config,
    }
    answer = worker.send_task(TASK, kwargs=arguments, queue=QUEUE).get(timeout=RESULT_SECONDS)
    decoded: dict[str, Any] = json.loads(base64.b64decode(answer))
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
