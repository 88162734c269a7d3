"""The service goes away and comes back."""

import signal
import subprocess
import threading
from pathlib import Path

import pytest

from cloudmanager.client import AsyncCloudManager, errors
from tests.client.conftest import Eventually, MakeClient
from tests.client.daemon import Daemon
from tests.ports import free_port

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
async def test_an_export_outlives_a_restart(
    client: AsyncCloudManager, daemon: Daemon, soon: Eventually, tmp_path: Path, number: signal.Signals
) -> None:
    content = daemon.image("case.img")
    async with client.export("local:case.img", ttl_seconds=24, look_seconds=0.1) as disk:
        daemon.stop(number)
        before = disk.expires_at
        daemon.start()
        await soon(lambda: disk.expires_at > before)
        subprocess.run(["nbdcopy", disk.uri, tmp_path / "copy"], check=True)
    assert (tmp_path / "copy").read_bytes() == content


async def test_a_call_waits_for_a_service_that_starts(client: AsyncCloudManager, daemon: Daemon) -> None:
    daemon.stop()
    starter = threading.Timer(0.5, daemon.start)
    starter.start()
    async with client.export("local:a.img", ttl_seconds=1) as disk:
        assert daemon.state_of(disk.id) == "ready"
    starter.join()


async def test_its_retries_end(make_client: MakeClient) -> None:
    port = free_port()
    client = make_client(f"http://127.0.0.1:{port}", retry_seconds=0.3)
    with pytest.raises(errors.Unreachable, match="Is the service running"):
        await client.get("any")
