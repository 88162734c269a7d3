"""The emulated instance metadata service: version 2 only, and good enough for boto3's own credential chain."""

import boto3
import httpx
import pytest

from cloudmanager.testing.cloud.ec2 import HOME_ACCOUNT, Emulation
from cloudmanager.testing.cloud.faults import Effect, Fault

DOCUMENT = "latest/dynamic/instance-identity/document"
TTL = "X-aws-ec2-metadata-token-ttl-seconds"


@pytest.fixture
def url(cloud: Emulation) -> str:
    cloud.make_instance("worker-1")
    return cloud.metadata_servers["worker-1"].url


def token(url: str) -> dict[str, str]:
    answer = httpx.put(f"{url}/latest/api/token", headers={TTL: "60"})
    return {"X-aws-ec2-metadata-token": answer.text}


def test_an_instance_is_told_who_it_is(cloud: Emulation, url: str) -> None:
    document = httpx.get(f"{url}/{DOCUMENT}", headers=token(url)).json()
    assert (document["instanceId"], document["availabilityZone"], document["region"], document["accountId"]) == (
        cloud.instance("worker-1").id,
        "us-east-1a",
        "us-east-1",
        HOME_ACCOUNT,
    )


def test_version_1_is_refused(url: str) -> None:
    assert httpx.get(f"{url}/{DOCUMENT}").status_code == 401


def test_another_instances_token_is_refused(cloud: Emulation, url: str) -> None:
    cloud.make_instance("worker-2")
    foreign = token(cloud.metadata_servers["worker-2"].url)
    assert httpx.get(f"{url}/{DOCUMENT}", headers=foreign).status_code == 401


@pytest.mark.parametrize("ttl", ["", "0", "21601", "long"])
def test_a_token_needs_a_time_to_live(url: str, ttl: str) -> None:
    assert httpx.put(f"{url}/latest/api/token", headers={TTL: ttl}).status_code == 400


def test_a_token_is_not_given_to_a_get_or_through_a_proxy(url: str) -> None:
    assert httpx.get(f"{url}/latest/api/token", headers={TTL: "60"}).status_code == 405
    proxied = {TTL: "60", "X-Forwarded-For": "10.0.0.1"}
    assert httpx.put(f"{url}/latest/api/token", headers=proxied).status_code == 403


def test_the_service_can_refuse(cloud: Emulation, url: str) -> None:
    cloud.faults.add(Fault("metadata", Effect.ERROR, status=403))
    assert httpx.put(f"{url}/latest/api/token", headers={TTL: "60"}).status_code == 403


def test_boto3_finds_the_credentials_of_the_instances_role(
    cloud: Emulation, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
    session = boto3.Session(region_name="us-east-1")
    answer = session.client("sts", endpoint_url=cloud.url).get_caller_identity()
    assert answer["Account"] == HOME_ACCOUNT
