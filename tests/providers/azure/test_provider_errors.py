"""How Azure's errors are read; that each has its class is the conformance suite's to prove."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from cloudmanager.core.errors import AccessDenied, CloudUnavailable
from cloudmanager.core.plugins import Provider
from cloudmanager.providers.azure.errors import retry_after
from cloudmanager.testing.cloud.azure import AzureEmulation
from cloudmanager.testing.cloud.azure.emulation import GROUP
from cloudmanager.testing.cloud.faults import Effect, Fault
from tests.providers.azure.clients import describe, make_provider


def test_azures_own_words_are_kept(cloud: AzureEmulation, provider: Provider) -> None:
    cloud.faults.add(Fault("Disks_Get", Effect.ERROR, code="AuthorizationFailed", message="The client 'x' may not."))
    with pytest.raises(AccessDenied, match="The client 'x' may not"):
        describe(provider, f"{GROUP}/evidence-7")


def test_a_read_that_is_throttled_for_a_moment_is_made_again(cloud: AzureEmulation, identity: None) -> None:
    cloud.make_disk("evidence-7")
    cloud.faults.add(Fault("Disks_Get", Effect.THROTTLE, retry_after=0))
    cloud.faults.add(Fault("Disks_Get", Effect.CUT_BEFORE, nth=2))
    assert describe(make_provider(cloud), f"{GROUP}/evidence-7").size_bytes
    assert [call.status for call in cloud.calls if call.operation == "Disks_Get"] == [429, 0, 200]


def test_an_endpoint_that_nobody_listens_at_is_unavailable(cloud: AzureEmulation, identity: None) -> None:
    provider = make_provider(cloud, endpoint="https://127.0.0.1:1", retry_attempts=1)
    with pytest.raises(CloudUnavailable, match="could not be reached"):
        describe(provider, "evidence-7")


def test_an_endpoint_that_nobody_vouches_for_is_not_spoken_to(cloud: AzureEmulation, identity: None) -> None:
    provider = make_provider(cloud, ca_file=None, retry_attempts=1)
    with pytest.raises(CloudUnavailable):
        describe(provider, "evidence-7")
    assert "Disks_Get" not in [call.operation for call in cloud.calls]


def test_no_credential_is_an_access_that_is_denied(
    cloud: AzureEmulation, identity: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    with pytest.raises(AccessDenied, match="No credential for Azure"):
        describe(make_provider(cloud), "evidence-7")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "17"}, 17.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"x-ms-retry-after-ms": "1500"}, 1.5),
        ({"Retry-After": "soon"}, None),
        ({}, None),
        ({"Retry-After": "Fri, 01 Jan 1999 00:00:00 GMT"}, 0.0),
    ],
)
def test_azure_says_in_three_ways_when_to_come_back(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_a_date_to_come_back_at_is_understood() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert retry_after({"Retry-After": at}) == pytest.approx(90, abs=2)
