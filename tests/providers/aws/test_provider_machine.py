"""Who this machine is, and what a provider needs to start."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cloudmanager.core.errors import AccessDenied, AttachLimit, CloudUnavailable, ConfigurationError, MissingExtra
from cloudmanager.core.model import DiskId
from cloudmanager.core.plugins import Plugins, Provider
from cloudmanager.providers import aws
from cloudmanager.testing.cloud.ec2 import Emulation
from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.cloud.wire import HttpServer, Response
from tests.providers.aws.clients import actions, attach, describe, make_provider, plan
from tests.providers.aws.test_docs import policy


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
    cloud.faults.add(Fault("metadata", Effect.HANG, seconds=5))
    with pytest.raises(ConfigurationError, match=r"no answer within 2"):
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


@pytest.mark.parametrize("is_dead", [True, False], ids=["dead", "elsewhere"])
def test_a_metadata_service_behind_a_proxy_is_called_that(
    cloud: Emulation, node: str, monkeypatch: pytest.MonkeyPatch, is_dead: bool
) -> None:
    """Our own questions never go through a proxy; those of boto3 do."""
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", cloud.metadata_servers["worker-1"].url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with HttpServer(lambda _: Response.of_text(502, "Bad Gateway")) as proxy:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1" if is_dead else proxy.url)
        with pytest.raises((AccessDenied, CloudUnavailable), match=r"a proxy: set NO_PROXY=169\.254\.169\.254"):
            describe(make_provider(cloud), cloud.make_disk(""))


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
        "1 of 28 disks attached (m5.large, shared with network interfaces and instance store volumes)": "ok",
        "AttachVolume is allowed": "ok",
        "DetachVolume is not allowed": "problem",
    }
    assert cloud.calls.mutations() == []


def narrowed(policy: dict[str, Any], node: str) -> dict[str, Any]:
    """As docs/providers/aws.md describes it: this instance alone, and volumes with a tag."""
    find, change = policy["Statement"]
    on_machine = {**change, "Resource": f"arn:aws:ec2:*:*:instance/{node}"}
    tagged = {"StringEquals": {"aws:ResourceTag/forensics": "allowed"}}
    on_volumes = {**change, "Resource": "arn:aws:ec2:*:*:volume/*", "Condition": tagged}
    return {**policy, "Statement": [find, on_machine, on_volumes]}


def test_diagnosis_agrees_with_the_policy_of_the_docs(cloud: Emulation, provider: Provider) -> None:
    cloud.policies = [policy("disks")]
    assert {finding.severity.value for finding in provider.diagnose()} == {"ok"}
    attach(provider, cloud.make_disk("evidence-7"))


def test_diagnosis_agrees_with_a_policy_that_requires_a_tag(cloud: Emulation, provider: Provider, node: str) -> None:
    """No volume of the machine itself has the tag; it is the evidence that has."""
    cloud.policies = [narrowed(policy("disks"), node)]
    cloud.make_disk("untagged")
    assert [finding.severity.value for finding in provider.diagnose()][-2:] == ["problem", "problem"]
    assert "a tag" in provider.diagnose()[-1].advice
    volume = cloud.make_disk("evidence-7", labels={"forensics": "allowed"})
    findings = provider.diagnose()
    assert {finding.severity.value for finding in findings} == {"ok"}
    assert f"AttachVolume is allowed for volumes such as {volume}" in findings[-2].seen
    provider.detach(attach(provider, volume))
    with pytest.raises(AccessDenied):
        attach(provider, cloud.make_disk("forbidden"))
    assert cloud.holders(volume) == []


def test_diagnosis_goes_on_without_the_right_to_read_limits(cloud: Emulation, provider: Provider) -> None:
    cloud.denied.add("DescribeInstanceTypes")
    (finding,) = [finding for finding in provider.diagnose() if finding.severity.value != "ok"]
    assert (finding.severity.value, "ec2:DescribeInstanceTypes" in finding.advice) == ("warning", True)
    attach(provider, cloud.make_disk("evidence-7"))


def test_the_limit_is_ec2_s_or_the_setting_s(cloud: Emulation, node: str, credentials: None) -> None:
    """No call that changes something is made for a volume too many."""
    provider = make_provider(cloud, max_disks=2)
    assert "1 of 2 disks attached (max_disks)" in [finding.seen for finding in provider.diagnose()]
    first = attach(provider, cloud.make_disk("one"))
    with pytest.raises(AttachLimit, match="2 of the 2 disks that max_disks allows"):
        plan(provider, cloud.make_disk("two"))
    provider.detach(first)
    cloud.calls.clear()
    for number in range(3):
        plan(make_provider(cloud), cloud.make_disk(f"disk-{number}"))
    assert cloud.calls.mutations() == []


def test_an_instance_type_is_asked_for_once(cloud: Emulation, provider: Provider) -> None:
    for name in ("one", "two"):
        attach(provider, cloud.make_disk(name))
    assert actions(cloud).count("DescribeInstanceTypes") == 1


def test_volumes_are_spread_over_the_ebs_cards(cloud: Emulation, credentials: None) -> None:
    cloud.make_instance("worker-1", type_name="r8gb.48xlarge")
    provider = make_provider(cloud)
    volumes = [cloud.make_disk(f"disk-{number}") for number in range(5)]
    for volume in volumes:
        attach(provider, volume)
    cards = [cloud.volume(volume).attachments[0].card for volume in volumes]
    assert cards == [1, 0, 1, 0, 1]  # the root volume is on card 0


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
