"""An emulated Compute Engine with two machines, and the real SDK's clients for it."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cloudmanager.testing.cloud.gce import Emulation
from tests.providers.gce.clients import Clients
from tests.providers.gce.harness import GceHarness


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Emulation]:
    with Emulation(tmp_path / "cloud") as cloud:
        cloud.make_instance("worker-1")
        cloud.make_instance("worker-2")
        yield cloud


@pytest.fixture
def clients(cloud: Emulation) -> Clients:
    return Clients(cloud)


@pytest.fixture
def raw(cloud: Emulation) -> Iterator[httpx.Client]:
    """For requests that the SDK would not send."""
    token = {"Authorization": f"Bearer {cloud.tokens.token}"}
    with httpx.Client(base_url=f"{cloud.url}/compute/v1/", headers=token) as client:
        yield client


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[GceHarness]:
    """The world of the conformance suite, for what only this provider has."""
    with GceHarness(tmp_path) as harness:
        yield harness
