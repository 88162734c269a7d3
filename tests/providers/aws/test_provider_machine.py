"""Who this machine is, and what a provider needs to start."""

import subprocess
import sys
from pathlib import Path

import pytest

from cloudmanager.core.errors import AccessDenied, ConfigurationError, MissingExtra
from cloudmanager.core.model import DiskId
from cloudmanager.core.plugins import Plugins, Provider
from cloudmanager.providers import aws
from cloudmanager.testing.cloud.ec2 import Emulation
from cloudmanager.testing.cloud.faults import Effect, Fault
from tests.providers.aws.clients import actions, describe, make_provider


def test_the_metadata_service_says_who_the_machine_is(provider: Provider, node: str) -> None:
    assert (provider.node().name, provider.node().location) == (node, "us-east-1a")
    assert provider.node().native_id == f"us-east-1/{node}"


def test_the_metadata_service_is_asked_once(cloud: Emulation, provider: Provider) -> None:
    provider.node()
    cloud.metadata_servers["worker-1"].stop()
    provider.node()


def test_the_environment_moves_the_metadata_service(
    cloud: Emulation, node: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", cloud.metadata_servers["worker-1"].url)
    plugins = Plugins([("aws", aws)])
    plugins.configure({"aws": {"type": "aws", "lock_dir": str(tmp_path)}})
    assert plugins["aws"].node().name == node


def test_the_configuration_can_say_it_instead(cloud: Emulation, node: str) -> None:
    cloud.metadata_servers["worker-1"].stop()
    provider = make_provider(cloud, instance_id="i-0123456789abcdef0", availability_zone="eu-west-1a")
    assert provider.node().native_id == "eu-west-1/i-0123456789abcdef0"


def test_an_instance_id_without_a_zone_is_a_configuration_error(cloud: Emulation, node: str) -> None:
    with pytest.raises(ConfigurationError, match="set together"):
        make_provider(cloud, instance_id="i-0123456789abcdef0")


@pytest.mark.parametrize("zone", ["us-east-1", "somewhere"])
def test_a_zone_that_is_none_is_a_configuration_error(cloud: Emulation, node: str, zone: str) -> None:
    with pytest.raises(ConfigurationError, match="is no zone"):
        make_provider(cloud, instance_id="i-0123456789abcdef0", availability_zone=zone)


def test_an_absent_metadata_service_is_a_clear_error(cloud: Emulation, provider: Provider) -> None:
    cloud.metadata_servers["worker-1"].stop()
    with pytest.raises(ConfigurationError, match=r"could not be reached .*/latest/api/token.* set instance_id"):
        provider.node()


def test_a_slow_metadata_service_is_a_clear_error(cloud: Emulation, provider: Provider) -> None:
    cloud.faults.add(Fault("metadata", Effect.HANG, seconds=1))
    with pytest.raises(ConfigurationError, match=r"no answer within 0\.3 s"):
        provider.node()


def test_a_refusing_metadata_service_is_a_clear_error(cloud: Emulation, provider: Provider) -> None:
    cloud.faults.add(Fault("metadata", Effect.ERROR, status=403))
    with pytest.raises(ConfigurationError, match="answered with HTTP status 403"):
        provider.node()


def test_credentials_come_from_the_instances_role(cloud: Emulation, node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", cloud.metadata_servers["worker-1"].url)
    assert describe(make_provider(cloud), cloud.make_disk("evidence-7")).description == "evidence-7"


def test_no_credentials_are_access_denied_with_what_to_do(
    cloud: Emulation, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(AccessDenied, match="give the instance a role") as caught:
        describe(make_provider(cloud), cloud.make_disk(""))
    assert caught.value.cloud_code == "NoCredentialsError"


def test_a_profile_that_does_not_exist_is_access_denied(cloud: Emulation, node: str) -> None:
    with pytest.raises(AccessDenied, match="ProfileNotFound"):
        describe(make_provider(cloud, profile="nobody"), "vol-0123456789abcdef0")


def test_building_a_provider_asks_nobody(cloud: Emulation, provider: Provider) -> None:
    assert actions(cloud) == []


PROBE = """
import sys
from cloudmanager.providers import aws
assert not [name for name in sys.modules if name.split(".")[0] in ("boto3", "botocore")], "imported too early"
sys.modules["boto3"] = None
from cloudmanager.core.plugins import Plugins
plugins = Plugins([("aws", aws)])
try:
    plugins.configure({"prod": {"type": "aws"}})
except Exception as error:
    print(type(error).__name__, error)
"""


def test_without_boto3_the_plugin_loads_and_the_provider_names_the_extra() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(MissingExtra.__name__)
    assert "pip install 'cloudmanager[aws]'" in done.stdout


def test_diagnosis_names_identity_and_permissions(cloud: Emulation, provider: Provider, node: str) -> None:
    cloud.denied.add("DetachVolume")
    seen = {finding.seen: finding.severity.value for finding in provider.diagnose()}
    assert seen == {
        f"this machine is {node} in us-east-1a": "ok",
        "1 volume of this machine": "ok",
        "AttachVolume is allowed": "ok",
        "DetachVolume is not allowed": "problem",
    }
    assert cloud.calls.mutations() == []


def test_diagnosis_finds_an_instance_id_that_ec2_does_not_know(cloud: Emulation, node: str, credentials: None) -> None:
    provider = make_provider(cloud, instance_id="i-0123456789abcdef0", availability_zone="us-east-1a")
    problems = [finding for finding in provider.diagnose() if finding.severity.value == "problem"]
    assert "Check instance_id" in problems[0].advice


def test_diagnosis_says_what_denies_the_reads(cloud: Emulation, provider: Provider) -> None:
    cloud.denied.add("DescribeVolumes")
    assert "docs/providers/aws.md" in provider.diagnose()[-1].advice


def test_two_providers_of_one_account_name_a_disk_alike(cloud: Emulation, node: str, credentials: None) -> None:
    disk = cloud.make_disk("evidence-7")
    one, other = (
        make_provider(cloud, name="one"),
        make_provider(cloud, name="other", regions=["us-east-1", "eu-west-1"]),
    )
    assert one.describe(DiskId("one", disk)).canonical_id == other.describe(DiskId("other", disk)).canonical_id
