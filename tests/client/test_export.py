"""`with manager.export(…) as disk`: ready, kept, given back."""

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloudmanager.client import Access, AsyncCloudManager, Export, ExportState, errors
from tests.client.conftest import Eventually, MakeClient
from tests.client.daemon import SIZE, Daemon
from tests.waiting import eventually

pytestmark = pytest.mark.anyio


async def test_its_bytes_are_those_of_the_disk(client: AsyncCloudManager, daemon: Daemon, tmp_path: Path) -> None:
    content = daemon.image("case.img")
    async with client.export("local:case.img") as disk:
        subprocess.run(["nbdcopy", disk.uri, tmp_path / "copy"], check=True)
        assert (tmp_path / "copy").read_bytes() == content
        assert (disk.size_bytes, disk.disk, disk.access) == (SIZE, "local:case.img", Access.READ_ONLY)
        assert disk.address.uri == disk.uri
        assert not disk.address.is_writable


async def test_it_is_released_at_the_end(client: AsyncCloudManager, daemon: Daemon) -> None:
    async with client.export("local:a.img") as disk:
        assert daemon.state_of(disk.id) == "ready"
    eventually(lambda: daemon.state_of(disk.id) == "closed")


async def test_an_exception_passes_and_it_is_released(client: AsyncCloudManager, daemon: Daemon) -> None:
    with pytest.raises(ZeroDivisionError):
        async with client.export("local:a.img") as disk:
            1 / 0  # noqa: B018 - what the worker does wrong
    eventually(lambda: daemon.state_of(disk.id) == "closed")


async def test_the_progress_is_told_until_it_is_ready(client: AsyncCloudManager) -> None:
    seen: list[Export] = []
    async with client.export("local:a.img", on_progress=seen.append) as disk:
        assert seen[0].state in (ExportState.PENDING, ExportState.ATTACHING)
        assert seen[-1].state is ExportState.READY
        assert {export.id for export in seen} == {disk.id}


async def test_what_the_progress_raises_ends_it(client: AsyncCloudManager, daemon: Daemon) -> None:
    seen: list[Export] = []

    def stop(export: Export) -> None:
        seen.append(export)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        async with client.export("local:a.img", on_progress=stop):
            pytest.fail("the block ran")
    eventually(lambda: daemon.state_of(seen[0].id) == "closed")


async def test_it_outlives_its_time_because_it_is_renewed(
    client: AsyncCloudManager, daemon: Daemon, soon: Eventually
) -> None:
    async with client.export("local:a.img", ttl_seconds=1) as disk:
        first = disk.expires_at
        await soon(lambda: (disk.expires_at - first).total_seconds() > 1.2)
        disk.check()
        assert daemon.state_of(disk.id) == "ready"


async def test_a_scratch_export_can_be_written(client: AsyncCloudManager, daemon: Daemon) -> None:
    content = daemon.image("written.img")
    async with client.export("local:written.img", "scratch") as disk:
        assert disk.address.is_writable
        commands = ["-c", "write -P 7 0 512", "-c", "read -P 7 0 512"]
        subprocess.run(["qemu-io", "-f", "raw", *commands, disk.uri], check=True, stdout=subprocess.DEVNULL)
    assert (daemon.images / "written.img").read_bytes() == content


async def test_the_holder_is_host_and_pid(client: AsyncCloudManager) -> None:
    async with client.export("local:a.img") as disk:
        assert disk.export.holder == f"{os.uname().nodename}:{os.getpid()}"


async def test_the_environment_can_name_the_holder(client: AsyncCloudManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDMANAGER_HOLDER", "plaso-7")
    async with client.export("local:a.img", note="case 4711") as disk:
        assert (disk.export.holder, disk.export.note) == ("plaso-7", "case 4711")


async def test_a_conflict_names_the_holder(client: AsyncCloudManager) -> None:
    async with client.export("local:a.img", holder="alice"):
        with pytest.raises(errors.AccessConflict) as refused:
            async with client.export("local:a.img", "read-write"):
                pytest.fail("the block ran")
    assert refused.value.holder == "alice"
    assert refused.value.status == 409


async def test_an_unknown_disk_is_told_at_once(client: AsyncCloudManager, daemon: Daemon) -> None:
    before = len(daemon.exports())
    with pytest.raises(errors.DiskNotFound, match=r"nothing\.img"):
        async with client.export("local:nothing.img"):
            pytest.fail("the block ran")
    assert len(daemon.exports()) == before


async def test_after_the_block_it_has_no_address_and_is_not_lost(client: AsyncCloudManager, soon: Eventually) -> None:
    async with client.export("local:a.img", ttl_seconds=1) as disk:
        ends_at = disk.expires_at
    await soon(lambda: datetime.now(UTC) > ends_at)
    disk.check()
    with pytest.raises(errors.InvalidSetup):
        disk.uri  # noqa: B018 - the property raises


async def test_outside_the_block_it_has_no_address(client: AsyncCloudManager) -> None:
    exported = client.export("local:a.img")
    if hasattr(exported, "_disk"):
        exported = exported._disk
    with pytest.raises(errors.InvalidSetup, match="inside the `with` block"):
        exported.uri  # noqa: B018 - the property raises


async def test_it_can_be_used_again(client: AsyncCloudManager) -> None:
    exported = client.export("local:a.img")
    async with exported as disk:
        first = disk.id
    async with exported as disk:
        assert disk.id != first
        disk.check()


async def test_one_that_is_not_ready_in_time_is_released(own_daemon: Daemon, make_client: MakeClient) -> None:
    """Another program listens on the only port that the exports may use."""
    port = str(own_daemon.tables["nbd"]["ports"]).partition("-")[0]
    own_daemon.tables["nbd"] = {"ports": f"{port}-{port}"}
    own_daemon.started()
    client = make_client(own_daemon.url)
    async with client.export("local:a.img"):
        with pytest.raises(errors.NotReadyInTime, match="still attaching") as late:
            async with client.export("local:a.img", ready_seconds=0.1):
                pytest.fail("the block ran")
    eventually(lambda: own_daemon.state_of(late.value.export_id) == "closed")


async def test_one_that_fails_raises_why(own_daemon: Daemon, make_client: MakeClient, tmp_path: Path) -> None:
    broken = tmp_path / "bin" / "qemu-nbd"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho the disk is on strike >&2\nexit 1\n")
    broken.chmod(0o755)
    own_daemon.environment["PATH"] = f"{broken.parent}:{os.environ['PATH']}"
    own_daemon.tables["nbd"] = {**own_daemon.tables["nbd"], "sandbox": "none"}
    own_daemon.started()
    with pytest.raises(errors.ServerFailed, match="on strike"):
        async with make_client(own_daemon.url).export("local:a.img"):
            pytest.fail("the block ran")
    assert [export["state"] for export in own_daemon.exports()] == ["failed"]


async def test_the_ways_lead_to_the_bytes(client: AsyncCloudManager, daemon: Daemon, tmp_path: Path) -> None:
    content = daemon.image("ways.img")
    async with client.export("local:ways.img") as disk:
        with disk.stub(tmp_path / "stub.qcow2") as stub:
            subprocess.run(["qemu-img", "convert", "-O", "raw", stub.path, tmp_path / "copy"], check=True)
    assert Path(tmp_path / "copy").read_bytes() == content
