"""The emulated EC2 reads requests and writes answers by botocore's model, and refuses what does not fit it."""

import httpx
import pytest
from botocore.exceptions import ClientError

from cloudmanager.testing.cloud.ec2 import HOME_ACCOUNT, Emulation
from cloudmanager.testing.cloud.faults import Effect, Fault
from tests.providers.aws.clients import OTHER_KEY, Client, make_client, refused

SIGNATURE = (
    "AWS4-HMAC-SHA256 Credential=AKIAEMULATED00000001/20260101/us-east-1/ec2/aws4_request, "
    "SignedHeaders=host;x-amz-date, Signature=" + "0" * 64
)
SIGNED = {"Authorization": SIGNATURE, "X-Amz-Date": "20260101T000000Z"}


def post(cloud: Emulation, **form: str) -> httpx.Response:
    """A request of a client that checks nothing."""
    return httpx.post(cloud.url, data={"Version": "2016-11-15", **form}, headers=SIGNED)


def test_an_unsigned_request_is_refused(cloud: Emulation) -> None:
    answer = httpx.post(cloud.url, data={"Action": "DescribeVolumes"})
    assert (answer.status_code, "MissingAuthenticationToken" in answer.text) == (403, True)


def test_an_access_key_of_nobody_is_refused(cloud: Emulation) -> None:
    client = make_client(cloud, key="AKIANOBODY")
    assert refused(client.describe_volumes) == (
        "AuthFailure",
        "AWS was not able to validate the provided access credentials",
    )


def test_an_unknown_action_is_refused(cloud: Emulation) -> None:
    assert "<Code>InvalidAction</Code>" in post(cloud, Action="ExplodeVolume").text


def test_an_unknown_parameter_is_refused(cloud: Emulation) -> None:
    answer = post(cloud, Action="DescribeVolumes", VolumeID="vol-1")
    assert (answer.status_code, "<Code>UnknownParameter</Code>" in answer.text) == (400, True)


def test_an_unknown_member_of_a_structure_is_refused(cloud: Emulation) -> None:
    answer = post(cloud, Action="DescribeVolumes", **{"Filter.1.Name": "status", "Filter.1.Vaule.1": "available"})
    assert "<Code>UnknownParameter</Code><Message>The parameter Filter.1.Vaule.1" in answer.text


def test_a_missing_parameter_is_named(cloud: Emulation) -> None:
    answer = post(cloud, Action="AttachVolume", VolumeId="vol-0123456789abcdef0", Device="/dev/sdf")
    assert "<Message>The request must contain the parameter instanceId</Message>" in answer.text


@pytest.mark.parametrize(("name", "text"), [("MaxResults", "many"), ("DryRun", "yes")])
def test_a_mistyped_parameter_is_refused(cloud: Emulation, name: str, text: str) -> None:
    assert "<Code>InvalidParameterValue</Code>" in post(cloud, Action="DescribeVolumes", **{name: text}).text


def test_a_value_outside_its_enumeration_is_refused_though_botocore_lets_it_pass(ec2: Client) -> None:
    code, message = refused(lambda: ec2.create_volume(AvailabilityZone="us-east-1a", Size=1, VolumeType="gp9"))
    assert (code, message) == ("InvalidParameterValue", "Value (gp9) for parameter volumeType is invalid.")


def test_an_error_has_ec2s_envelope_with_a_request_id(ec2: Client) -> None:
    with pytest.raises(ClientError) as caught:
        ec2.describe_volumes(VolumeIds=["vol-0123456789abcdef0"])
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert len(caught.value.response["ResponseMetadata"]["RequestId"]) == 36


def test_an_answer_has_the_types_of_the_model(cloud: Emulation, ec2: Client) -> None:
    disk = cloud.make_disk("evidence-7", labels={"case": "42"})
    volume = ec2.describe_volumes(VolumeIds=[disk])["Volumes"][0]
    assert (volume["Size"], volume["Encrypted"], volume["Attachments"]) == (1, False, [])
    assert volume["CreateTime"].tzinfo is not None
    assert {tag["Key"]: tag["Value"] for tag in volume["Tags"]} == {"Name": "evidence-7", "case": "42"}


def test_the_caller_is_told_its_account(cloud: Emulation) -> None:
    assert make_client(cloud, "sts").get_caller_identity()["Account"] == HOME_ACCOUNT


def test_a_dry_run_says_that_it_would_have_worked_and_does_nothing(cloud: Emulation, ec2: Client) -> None:
    disk = cloud.make_disk("evidence-7")
    assert refused(lambda: ec2.delete_volume(VolumeId=disk, DryRun=True))[0] == "DryRunOperation"
    assert cloud.volume(disk).state == "available"
    assert cloud.calls.mutations() == []


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_no_policy_allows_is_unauthorized_also_in_a_dry_run(
    cloud: Emulation, ec2: Client, *, dry_run: bool
) -> None:
    cloud.denied.add("DeleteVolume")
    code, _ = refused(lambda: ec2.delete_volume(VolumeId=cloud.make_disk(""), DryRun=dry_run))
    assert code == "UnauthorizedOperation"


@pytest.mark.parametrize(
    ("form", "code", "status"),
    [
        ("", "RequestLimitExceeded", 503),
        ("EC2ThrottledException", "EC2ThrottledException", 503),
        ("Throttling", "Throttling", 400),
    ],
)
def test_throttling_has_ec2s_forms(cloud: Emulation, ec2: Client, form: str, code: str, status: int) -> None:
    cloud.faults.add(Fault("DescribeVolumes", Effect.THROTTLE, form=form, retry_after=7))
    with pytest.raises(ClientError) as caught:
        ec2.describe_volumes()
    metadata = caught.value.response["ResponseMetadata"]
    assert (caught.value.response["Error"]["Code"], metadata["HTTPStatusCode"]) == (code, status)
    assert metadata["HTTPHeaders"]["retry-after"] == "7"


def test_another_account_and_another_region_see_nothing_of_it(cloud: Emulation) -> None:
    cloud.make_disk("evidence-7")
    for client in (make_client(cloud, key=OTHER_KEY), make_client(cloud, region="eu-west-1")):
        assert client.describe_volumes()["Volumes"] == []
