"""From a name to bytes over NBD and back: the core, the SDK, the emulator, a loop device, qemu-nbd and libnbd."""

import hashlib
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager.core.manager import Manager
from cloudmanager.core.model import Access, ExportState, Query
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.settings import from_tables
from cloudmanager.core.wiring import open_manager
from cloudmanager.providers import azure
from cloudmanager.testing.cloud.azure import AzureEmulation

DEADLINE_SECONDS = 20
MIB = 1024**2


@pytest.fixture
def manager(cloud: AzureEmulation, identity: None, tmp_path: Path) -> Iterator[Manager]:
    first = random.randrange(20_000, 60_000, 20)  # noqa: S311 - a range of ports that nobody else is likely to use
    settings = from_tables(
        {
            "server": {"state_dir": str(tmp_path / "state")},
            "nbd": {"ports": f"{first}-{first + 19}"},
            "exports": {"drain_seconds": 0},
            "providers": {"prod": cloud.provider_settings("worker-1")},
        }
    )
    plugins = Plugins([("azure", azure)])
    plugins.configure(settings.providers)
    manager = open_manager(settings, plugins)
    manager.start()
    yield manager
    manager.close()


def sha256_over_nbd(uri: str, directory: Path) -> str:
    copy = directory / "copy"
    subprocess.run(["nbdcopy", uri, copy], check=True, timeout=60)
    return hashlib.sha256(copy.read_bytes()).hexdigest()


def wait_until_free(cloud: AzureEmulation, disk: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while cloud.holders(disk):
        assert time.monotonic() < deadline, f"{disk} is still attached"
        time.sleep(0.05)


def test_a_disk_is_found_shared_read_and_let_go(cloud: AzureEmulation, manager: Manager, tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.write_bytes(os.urandom(4 * MIB))
    cloud.make_disk("evidence-7", size_bytes=4 * MIB, content=content)
    found = manager.disks("prod", Query(text="evidence")).items[0]
    exports = [manager.export(str(found.id), Access.READ_ONLY, holder) for holder in ("alice", "bob", "carol")]
    exports = [manager.wait(export.id, DEADLINE_SECONDS) for export in exports]
    assert [export.state for export in exports] == [ExportState.READY] * 3
    assert sha256_over_nbd(str(exports[1].uri), tmp_path) == hashlib.sha256(content.read_bytes()).hexdigest()
    for export in exports[:2]:
        manager.release(export.id)
    assert cloud.holders("evidence-7") == ["worker-1"]
    manager.release(exports[2].id)
    wait_until_free(cloud, "evidence-7")
    guest = cloud.guests["worker-1"]
    assert [key for key in guest.plugged if "evidence-7" in key] == []
    assert guest.surprises == []
    assert len([call for call in cloud.calls.mutations() if call.target == "evidence-7"]) == 2


@pytest.mark.parametrize(
    ("sku", "asked", "sectors"),
    [
        ("PremiumV2_LRS", None, 4096),
        ("UltraSSD_LRS", 4096, 4096),
        ("UltraSSD_LRS", 512, 512),
        ("Premium_LRS", None, 512),
    ],
)
def test_a_disk_has_the_sectors_that_azure_gave_it(
    cloud: AzureEmulation, manager: Manager, sku: str, asked: int | None, sectors: int
) -> None:
    cloud.make_disk("evidence-7", size_bytes=4 * MIB, sku=sku, sector_bytes=asked)
    described = manager.disk("prod:evidence-7")
    assert described.logical_sector_bytes == sectors
    export = manager.export("prod:evidence-7", Access.READ_ONLY, "plaso-7")
    export = manager.wait(export.id, DEADLINE_SECONDS)
    assert (export.state, export.logical_sector_bytes) == (ExportState.READY, sectors)
    manager.release(export.id)
    wait_until_free(cloud, "evidence-7")
