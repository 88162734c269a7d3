"""An emulated Azure in its own directory, and clients that talk to it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudmanager.core.plugins import Provider
from cloudmanager.testing.cloud.azure import AzureEmulation
from tests.providers.azure.clients import Sdk, Wire, make_provider


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[AzureEmulation]:
    """With two machines and at pace 0: operations end at once."""
    with AzureEmulation(tmp_path / "azure") as emulation:
        emulation.make_instance("worker-1")
        emulation.make_instance("worker-2")
        yield emulation


@pytest.fixture
def sdk(cloud: AzureEmulation) -> Iterator[Sdk]:
    sdk = Sdk(cloud)
    with sdk.client:
        yield sdk


@pytest.fixture
def wire(cloud: AzureEmulation) -> Iterator[Wire]:
    wire = Wire(cloud)
    with wire.http:
        yield wire


QUICK: dict[str, Any] = {
    "attach_timeout_seconds": 0.6,
    "detach_timeout_seconds": 0.6,
    "device_timeout_seconds": 0.6,
    "request_timeout_seconds": 5,
    "poll_seconds": 0.05,
    "look_seconds": 0,
    "retry_attempts": 1,
}


@pytest.fixture
def identity(cloud: AzureEmulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's credential finds the managed identity of worker-1."""
    for name, value in cloud.environment("worker-1").items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def provider(cloud: AzureEmulation, identity: None) -> Provider:
    """On worker-1, with short waits."""
    return make_provider(cloud, **QUICK)
