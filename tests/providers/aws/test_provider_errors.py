"""Each of EC2's errors has its class, and keeps its code, its flag and its Retry-After; nothing secret is told."""

import logging

import pytest

from cloudmanager.core.errors import (
    AccessDenied,
    AttachLimit,
    CloudError,
    CloudManagerError,
    CloudUnavailable,
    DiskInUse,
    DiskNotFound,
    NameClash,
    Throttled,
    WrongZone,
)
from cloudmanager.core.plugins import Provider
from cloudmanager.testing.cloud.ec2 import Emulation
from cloudmanager.testing.cloud.faults import Effect, Fault
from tests.providers.aws.clients import actions, attach, changes, describe, make_provider, plan


def test_a_key_that_cannot_be_used_is_called_by_its_name(cloud: Emulation, provider: Provider) -> None:
    volume = cloud.make_disk("evidence-7")
    cloud.volume(volume).is_encrypted, cloud.volume(volume).is_key_usable = True, False
    with pytest.raises(AccessDenied, match=r"KMS key of the volume cannot be used.*cloudmanager-key\.json") as caught:
        attach(provider, volume)
    assert (caught.value.cloud_code, caught.value.retriable) == ("CustomerKeyHasBeenRevoked", False)
    assert cloud.holders(volume) == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("CustomerKeyHasBeenRevoked", "Volume vol-1 cannot be attached."),
        ("KMS.DisabledException", "The key is disabled."),
        ("InvalidVolume", "The KMS key state is pending deletion."),
        ("UnauthorizedOperation", "You are not authorized to perform kms:CreateGrant on this key."),
    ],
)
def test_a_refusal_that_is_about_a_key_says_kms(cloud: Emulation, provider: Provider, code: str, message: str) -> None:
    planned = plan(provider, cloud.make_disk("evidence-7"))
    cloud.faults.add(Fault("AttachVolume", Effect.ERROR, code=code, message=message))
    with pytest.raises(AccessDenied, match="The KMS key of the volume") as caught:
        provider.attach(planned)
    assert caught.value.cloud_code == code


def test_a_throttled_key_service_is_asked_again(cloud: Emulation, provider: Provider) -> None:
    planned = plan(provider, cloud.make_disk("evidence-7"))
    message = "KMS rate exceeded"
    cloud.faults.add(Fault("AttachVolume", Effect.ERROR, code="RequestLimitExceeded", message=message))
    with pytest.raises(Throttled):
        provider.attach(planned)


@pytest.mark.parametrize(
    ("code", "message", "kind", "retriable"),
    [
        ("InvalidVolume.NotFound", "", DiskNotFound, False),
        ("AttachmentLimitExceeded", "", AttachLimit, False),
        ("InvalidVolume.ZoneMismatch", "", WrongZone, False),
        ("UnauthorizedOperation", "", AccessDenied, False),
        ("AuthFailure", "", AccessDenied, False),
        ("ExpiredToken", "", AccessDenied, False),
        ("RequestLimitExceeded", "", Throttled, True),
        ("EC2ThrottledException", "", Throttled, True),
        ("Throttling", "", Throttled, True),
        ("IncorrectState", "vol-1 is not 'available'.", CloudUnavailable, True),
        ("InternalError", "", CloudUnavailable, True),
        ("Unavailable", "", CloudUnavailable, True),
        ("VolumeInUse", "", DiskInUse, True),
        ("InvalidParameterValue", "Attachment point /dev/sdf is already in use", NameClash, True),
        ("InvalidParameterValue", "Value (x) for parameter device is invalid.", CloudError, False),
        ("SomethingNew", "", CloudError, False),
    ],
)
def test_an_error_of_an_attach_has_its_class(
    cloud: Emulation, provider: Provider, code: str, message: str, kind: type[CloudManagerError], *, retriable: bool
) -> None:
    planned = plan(provider, cloud.make_disk("evidence-7"))
    cloud.faults.add(Fault("AttachVolume", Effect.ERROR, code=code, message=message))
    with pytest.raises(CloudManagerError) as caught:
        provider.attach(planned)
    assert (type(caught.value), caught.value.retriable, caught.value.cloud_code) == (kind, retriable, code)


@pytest.mark.parametrize(("status", "kind"), [(500, CloudUnavailable), (429, Throttled), (400, CloudError)])
def test_an_unknown_code_is_told_by_its_status(
    cloud: Emulation, provider: Provider, status: int, kind: type[CloudManagerError]
) -> None:
    cloud.faults.add(Fault("DescribeVolumes", Effect.ERROR, code="Strange", status=status))
    with pytest.raises(kind):
        describe(provider, "vol-0123456789abcdef0")


@pytest.mark.parametrize("form", ["RequestLimitExceeded", "EC2ThrottledException", "Throttling"])
def test_retry_after_is_kept(cloud: Emulation, provider: Provider, form: str) -> None:
    cloud.faults.add(Fault("DescribeVolumes", Effect.THROTTLE, form=form, retry_after=17))
    with pytest.raises(Throttled) as caught:
        describe(provider, "vol-0123456789abcdef0")
    assert (caught.value.retry_after, caught.value.cloud_code) == (17, form)


def test_a_throttled_read_is_repeated_as_often_as_configured_and_not_more(
    cloud: Emulation, node: str, credentials: None
) -> None:
    cloud.faults.add(Fault("DescribeVolumes", Effect.THROTTLE, times=0))
    with pytest.raises(Throttled):
        describe(make_provider(cloud, retry_attempts=2), "vol-0123456789abcdef0")
    assert actions(cloud) == ["DescribeVolumes"] * 2


def test_a_throttled_attach_is_repeated_after_another_look(cloud: Emulation, node: str, credentials: None) -> None:
    provider = make_provider(cloud, retry_attempts=2)
    planned = plan(provider, cloud.make_disk("evidence-7"))
    cloud.calls.clear()
    cloud.faults.add(Fault("AttachVolume", Effect.THROTTLE))
    provider.attach(planned)
    asked = actions(cloud)
    assert [action for action in asked if action != "DescribeVolumes"] == ["AttachVolume"] * 2
    assert asked[asked.index("AttachVolume") + 1] == "DescribeVolumes"


def test_a_broken_connection_is_retriable(cloud: Emulation, provider: Provider) -> None:
    cloud.faults.add(Fault("DescribeVolumes", Effect.CUT_BEFORE))
    with pytest.raises(CloudUnavailable):
        describe(provider, "vol-0123456789abcdef0")


def test_no_answer_in_time_is_retriable(cloud: Emulation, node: str, credentials: None) -> None:
    cloud.faults.add(Fault("DescribeVolumes", Effect.DELAY, seconds=1))
    with pytest.raises(CloudUnavailable, match="ReadTimeoutError"):
        describe(make_provider(cloud, request_timeout_seconds=0.3), "vol-0123456789abcdef0")


def test_nobody_listening_is_retriable(cloud: Emulation, provider: Provider) -> None:
    provider.node()
    cloud.server.stop()
    with pytest.raises(CloudUnavailable, match="EndpointConnectionError"):
        describe(provider, "vol-0123456789abcdef0")


def test_a_denial_says_what_was_denied_and_not_the_encoded_message(cloud: Emulation, provider: Provider) -> None:
    cloud.denied.add("AttachVolume")
    with pytest.raises(AccessDenied) as caught:
        attach(provider, cloud.make_disk("evidence-7"))
    assert "ec2:AttachVolume" in caught.value.detail
    assert "ncoded" not in caught.value.detail
    assert "docs/providers/aws.md" in caught.value.detail


def test_no_secret_is_logged_even_when_everything_is(
    cloud: Emulation, node: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEMULATED00000001")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret-key")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the-session-token")
    caplog.set_level(logging.DEBUG)
    provider = make_provider(cloud)
    provider.detach(attach(provider, cloud.make_disk("evidence-7")))
    cloud.faults.add(Fault("AttachVolume", Effect.ERROR, code="AuthFailure", message="no\nthe-session-token"))
    with pytest.raises(AccessDenied) as caught:
        attach(provider, cloud.make_disk("other"))
    for text in (caplog.text, str(caught.value)):
        assert "the-secret-key" not in text
        assert "the-session-token" not in text
    assert changes(cloud)
