"""An emulated EC2 in its own directory, and boto3 clients that talk to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager.core.plugins import Provider
from cloudmanager.testing.cloud.ec2 import Emulation
from tests.providers.aws.clients import HOME_KEY, Client, make_client, make_provider


@pytest.fixture(autouse=True)
def _no_configuration_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Emulation]:
    """At once: nothing takes time."""
    with Emulation(tmp_path / "ec2") as emulation:
        yield emulation


@pytest.fixture
def slow_cloud(tmp_path: Path) -> Iterator[Emulation]:
    """Takes EC2's time, on a clock that stands still until it is moved."""
    with Emulation(tmp_path / "ec2", pace=1.0) as emulation:
        emulation.timeline.freeze()
        yield emulation


@pytest.fixture
def ec2(cloud: Emulation) -> Client:
    return make_client(cloud)


@pytest.fixture
def slow_ec2(slow_cloud: Emulation) -> Client:
    return make_client(slow_cloud)


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where boto3's chain looks first."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", HOME_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")


@pytest.fixture
def node(cloud: Emulation) -> str:
    """The id of the instance worker-1, which runs the provider."""
    cloud.make_instance("worker-1")
    return cloud.instance("worker-1").id


@pytest.fixture
def provider(cloud: Emulation, node: str, credentials: None) -> Provider:
    """On worker-1, with short waits."""
    return make_provider(cloud)
