"""Azure's published limits, which the emulator has by default, and how many exports of one machine they allow."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloudmanager.core.claiming import ClaimRequest
from cloudmanager.core.manager import Manager
from cloudmanager.core.model import Access, ExportState
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.settings import from_tables
from cloudmanager.core.wiring import open_manager
from cloudmanager.providers import azure
from cloudmanager.testing.cloud.azure import AzureEmulation
from cloudmanager.testing.cloud.azure.emulation import GROUP
from tests.ports import free_ports
from tests.providers.azure.clients import Wire, machine_path
from tests.waiting import eventually

UPDATE = "VirtualMachines_AttachDetachDataDisks"
SMALL = 64 * 1024


@contextmanager
def service(cloud: AzureEmulation, directory: Path, disks: int) -> Iterator[Manager]:
    """On the largest machine, with so many disks that it may attach, and with all its settings at their defaults."""
    cloud.make_instance("large-1", size="Standard_M128s")
    for number in range(disks):
        cloud.make_disk(f"evidence-{number}", size_bytes=SMALL)
    ports = free_ports(disks)
    settings = from_tables(
        {
            "server": {"state_dir": str(directory / "state")},
            "nbd": {"ports": f"{ports[0]}-{ports[-1]}"},
            "exports": {"drain_seconds": 0, "linger_seconds": 0},
            "providers": {"prod": cloud.provider_settings("large-1")},
        }
    )
    plugins = Plugins([("azure", azure)])
    plugins.configure(settings.providers)
    manager = open_manager(settings, plugins)
    manager.start()
    try:
        yield manager
    finally:
        manager.close()


def export_all(manager: Manager, disks: int) -> list[str]:
    """Their ids. All are claimed at about the same time."""

    def claim(number: int) -> str:
        export, _ = manager.claim(ClaimRequest(f"prod:{GROUP}/evidence-{number}", Access.READ_ONLY, "plaso-7"))
        return export.id

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(claim, range(disks)))


def release_all(manager: Manager, ids: list[str]) -> None:
    for id in ids:
        manager.release(id)
    eventually(lambda: {manager.get(id).state for id in ids} == {ExportState.CLOSED})


def counted(cloud: AzureEmulation) -> Counter[str]:
    return Counter(call.operation.partition("/")[0] for call in cloud.calls)


def refused(cloud: AzureEmulation) -> list[str]:
    return [call.operation for call in cloud.calls if call.status == 429]


@pytest.fixture
def large_identity(cloud: AzureEmulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The managed identity of worker-1, whose role allows everything."""
    for name, value in cloud.environment("worker-1").items():
        monkeypatch.setenv(name, value)


def test_the_emulator_has_the_published_limits(cloud: AzureEmulation, wire: Wire) -> None:
    answers = [wire.get(machine_path("worker-1")) for _ in range(37)]
    assert [answer.status_code for answer in answers] == [200] * 36 + [429]
    assert "LowCostGetResource;35" in answers[0].headers["x-ms-ratelimit-remaining-resource"]
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 5  # one a minute more every 5 seconds
    assert wire.get(machine_path("worker-2")).status_code == 200  # a bucket for each machine
    cloud.limits.lift()
    assert wire.get(machine_path("worker-1")).status_code == 200


def test_updates_are_limited_too(cloud: AzureEmulation, wire: Wire) -> None:
    disk = cloud.make_disk("evidence-7", size_bytes=SMALL)
    statuses = [wire.attach({"dataDisksToDetach": [{"diskId": disk}]}).status_code for _ in range(13)]
    assert statuses == [400] * 12 + [429]


def test_exports_that_are_asked_for_together_take_few_requests(
    cloud: AzureEmulation, large_identity: None, tmp_path: Path
) -> None:
    with service(cloud, tmp_path, 20) as manager:
        ids = export_all(manager, 20)
        eventually(lambda: {manager.get(id).state for id in ids} == {ExportState.READY}, seconds=60)
        calls = counted(cloud)
        release_all(manager, ids)
    assert calls[UPDATE] <= 4
    assert calls["VirtualMachines_Get"] <= 20
    assert refused(cloud) == []


@pytest.mark.slow
def test_a_hundred_exports_of_a_hundred_disks_take_fifteen_updates(
    cloud: AzureEmulation, large_identity: None, tmp_path: Path
) -> None:
    """A machine takes 64: the others wait until a client is done and releases an export."""
    ready: set[str] = set()
    with service(cloud, tmp_path, 100) as manager:
        ids = export_all(manager, 100)

        def are_all_served() -> bool:
            for id in set(ids) - ready:
                if manager.get(id).state is ExportState.READY:
                    ready.add(id)
                    manager.release(id)
            assert ExportState.FAILED not in {manager.get(id).state for id in ids}
            return len(ready) == 100

        eventually(are_all_served, seconds=600)
        calls = counted(cloud)
        release_all(manager, ids)
    assert calls[UPDATE] <= 15
    assert refused(cloud) == []
