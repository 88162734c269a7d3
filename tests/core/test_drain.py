"""How an export ends: no new clients, time for the connected ones, nothing kept, the device free before its detach."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager import Access
from cloudmanager.core.errors import CloudUnavailable
from cloudmanager.core.model import AttachmentState, Export, ExportState
from cloudmanager.core.records import AttachmentRecord
from tests.core.bench import Bench, opened_bench
from tests.core.cloud_bench import CloudBench, opened_cloud
from tests.core.nbd.client import Client
from tests.waiting import eventually


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Whose clients have an hour to finish."""
    with opened_bench(tmp_path, drain_seconds=3600) as bench:
        yield bench
        bench.clock.ahead += 3600


@pytest.fixture(params=["gce", pytest.param("aws", marks=pytest.mark.slow), "azure"])
def cloud(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CloudBench]:
    with opened_cloud(tmp_path, request.param) as bench:
        yield bench


def client(export: Export) -> Client:
    assert export.port is not None
    return Client.greeted(export.port, export.name)


def is_refused(export: Export) -> bool:
    try:
        client(export).close()
    except OSError:
        return True
    return False


def stuck(bench: CloudBench) -> AttachmentRecord:
    """The attachment, once its detach was refused."""
    return eventually(lambda: next((a for a in bench.manager.attachments() if a.state is AttachmentState.STUCK), None))


def detaches(bench: CloudBench) -> int:
    return bench.harness.detaches()


def test_a_released_export_takes_no_new_client_and_lets_the_connected_one_finish(bench: Bench) -> None:
    export = bench.ready(access=Access.READ_WRITE)
    with client(export) as connected:
        bench.manager.release(export.id)
        eventually(lambda: is_refused(export))
        connected.write(0, b"w" * 512)
        connected.flush()
        assert connected.read(0, 512) == b"w" * 512
        assert bench.manager.get(export.id).state is ExportState.CLOSING
        assert bench.shelf.attached
    assert bench.over(export).state is ExportState.CLOSED
    assert (bench.shelf.directory / "a.img").read_bytes()[:512] == b"w" * 512
    eventually(lambda: not bench.shelf.attached)


def test_a_client_that_does_not_finish_is_cut_when_its_time_is_over(bench: Bench) -> None:
    export = bench.ready()
    with client(export) as connected:
        bench.manager.release(export.id)
        bench.clock.ahead = 3599
        assert len(connected.read(0, 512)) == 512
        bench.clock.ahead = 3601
        assert connected.is_cut()
    assert bench.over(export).state is ExportState.CLOSED


def test_an_export_that_has_expired_drains_like_one_that_was_released(bench: Bench) -> None:
    export = bench.ready()
    with client(export) as connected:
        bench.clock.ahead = 3700  # the default lifetime is an hour
        eventually(lambda: bench.manager.get(export.id).state is ExportState.CLOSING)
        eventually(lambda: is_refused(export))
        assert len(connected.read(0, 512)) == 512
    assert bench.over(export).state is ExportState.CLOSED


def test_a_restart_in_the_middle_gives_no_client_more_time(bench: Bench) -> None:
    export = bench.ready()
    with client(export) as connected:
        bench.manager.release(export.id)
        bench.clock.ahead = 3500
        bench.restart()
        eventually(lambda: is_refused(export))
        assert len(connected.read(0, 512)) == 512
        bench.clock.ahead = 3601
        assert connected.is_cut()


def test_nothing_is_left_of_what_was_written_to_scratch(bench: Bench) -> None:
    export = bench.ready(access=Access.SCRATCH)
    directory = bench.settings.server.state_dir / "exports" / export.id
    with client(export) as connected:
        connected.write(0, b"w" * 4096)
        connected.flush()
        assert (directory / "scratch.qcow2").exists()
        bench.manager.release(export.id)
        assert directory.exists()
    bench.over(export)
    assert not directory.exists()
    assert b"w" * 4096 not in (bench.shelf.directory / "a.img").read_bytes()


def test_a_device_that_is_mounted_is_not_detached_until_it_is_unmounted(cloud: CloudBench, tmp_path: Path) -> None:
    disk = cloud.harness.make_disk()
    subprocess.run(["mkfs.ext4", "-q", "-F", cloud.cloud.backing(cloud.harness.emulated_id(disk))], check=True)
    export = cloud.ready(disk)
    target = tmp_path / "mounted here"
    target.mkdir()
    subprocess.run(["mount", "-o", "ro,noload", cloud.plugged(disk).node, target], check=True)
    try:
        cloud.manager.release(export.id)
        refused = stuck(cloud)
        assert refused.error is not None
        assert (refused.error.code, refused.error.retriable) == ("disk_in_use", True)
        assert f"mounted at {target}" in refused.error.detail
        assert cloud.over(export).state is ExportState.CLOSED
        eventually(lambda: next(a.since for a in cloud.manager.attachments()) > refused.since)  # tried again
        assert cloud.harness.holders(disk)
        assert detaches(cloud) == 0
    finally:
        subprocess.run(["umount", target], check=True)
    eventually(lambda: not cloud.manager.attachments())
    assert not cloud.harness.holders(disk)
    assert cloud.guest.surprises == []


def test_a_device_that_a_program_holds_exclusively_is_not_detached(cloud: CloudBench) -> None:
    disk = cloud.harness.make_disk()
    export = cloud.ready(disk)
    holder = os.open(cloud.plugged(disk).node, os.O_RDONLY | os.O_EXCL)
    try:
        cloud.manager.release(export.id)
        refused = stuck(cloud)
        assert refused.error is not None
        assert "exclusively" in refused.error.detail
        assert detaches(cloud) == 0
    finally:
        os.close(holder)
    eventually(lambda: not cloud.manager.attachments())


def test_who_asks_for_a_disk_whose_detach_is_stuck_gets_it(cloud: CloudBench) -> None:
    disk = cloud.harness.make_disk()
    export = cloud.ready(disk)
    holder = os.open(cloud.plugged(disk).node, os.O_RDONLY | os.O_EXCL)
    try:
        cloud.manager.release(export.id)
        stuck(cloud)
        again = cloud.ready(disk, holder="bob")
        assert [a.state for a in cloud.manager.attachments()] == [AttachmentState.ATTACHED]
        assert detaches(cloud) == 0
    finally:
        os.close(holder)
    cloud.manager.release(again.id)
    eventually(lambda: not cloud.manager.attachments())


def test_a_disk_is_not_detached_blindly_while_the_cloud_cannot_be_asked_where_it_is(bench: Bench) -> None:
    """What holds its device cannot be seen then."""
    export = bench.ready()
    bench.shelf.failures["locate"] = [CloudUnavailable("Not now.")] * 3
    bench.manager.release(export.id)
    refused = eventually(
        lambda: next((a for a in bench.manager.attachments() if a.state is AttachmentState.STUCK), None)
    )
    assert refused.error is not None
    assert refused.error.detail == "Not now."
    eventually(lambda: not bench.shelf.attached)
