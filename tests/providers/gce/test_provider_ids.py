"""The spellings of a disk's name, and which instance this is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cloudmanager.core.errors import AccessDenied, ConfigurationError, InvalidDiskId, InvalidRequest, MissingExtra
from cloudmanager.core.model import Node, Severity
from cloudmanager.providers.gce.provider import GceProvider
from cloudmanager.providers.gce.resource_id import ResourceId, parse_disk, parse_snapshot
from cloudmanager.providers.gce.settings import GceSettings
from cloudmanager.testing.conformance import Trouble
from cloudmanager.testing.conformance.checks import describe
from tests.providers.gce.harness import GceHarness

ZONAL = "projects/acme/zones/us-central1-b/disks/evidence-7"


@pytest.mark.parametrize(
    ("native", "path"),
    [
        ("evidence-7", ZONAL),
        ("us-central1-b/evidence-7", ZONAL),
        ("zones/us-central1-b/disks/evidence-7", ZONAL),
        (ZONAL, ZONAL),
        (f"https://www.googleapis.com/compute/v1/{ZONAL}", ZONAL),
        (f"https://compute.googleapis.com/compute/v1/{ZONAL}", ZONAL),
        (f"https://compute.googleapis.com/compute/beta/{ZONAL}", ZONAL),
        (f"//compute.googleapis.com/{ZONAL}", ZONAL),
        ("europe-west4/evidence-7", "projects/acme/regions/europe-west4/disks/evidence-7"),
        ("regions/europe-west4/disks/e", "projects/acme/regions/europe-west4/disks/e"),
        ("us-central1-ai1a/e", "projects/acme/zones/us-central1-ai1a/disks/e"),
        ("4242", "projects/acme/zones/us-central1-b/disks/4242"),
        ("projects/example.com:old/zones/z/disks/e", "projects/example.com:old/zones/z/disks/e"),
    ],
)
def test_a_disk_is_named_in_all_of_googles_ways(native: str, path: str) -> None:
    assert parse_disk(native, "acme", "us-central1-b").path == path


@pytest.mark.parametrize(
    "native",
    [
        "",
        "/",
        "Evidence",
        "a_b",
        "-a",
        "a-",
        "a" * 64,
        "zone/",
        "/a",
        "a/b/c",
        "global/disks/e",
        "projects/acme/zones/z/instances/i",
        "https://evil.example/compute/v1/projects/acme/zones/z/disks/e",
        "us-central1-b/../e",
        "e?x=1",
        "e%2F",
        "projects/acme/zones/z/disks/e/extra",
        "projects/a b/zones/z/disks/e",
    ],
)
def test_what_is_no_name_of_a_disk_is_refused_with_an_example(native: str) -> None:
    with pytest.raises(InvalidDiskId, match="write evidence-7"):
        parse_disk(native, "acme", "us-central1-b")


def test_a_snapshot_is_named_by_name_or_path() -> None:
    wanted = ResourceId("acme", "global", "snapshots", "case-7")
    assert parse_snapshot("case-7", "acme") == parse_snapshot(wanted.path, "other") == wanted
    with pytest.raises(InvalidDiskId):
        parse_snapshot(ZONAL, "acme")


def test_this_instance_is_known_from_the_metadata_server(harness: GceHarness) -> None:
    path = "projects/acme-forensics/zones/us-central1-b/instances/worker-1"
    assert harness.make_provider().node() == Node("worker-1", "us-central1-b", path)


def test_settings_make_the_metadata_server_needless(harness: GceHarness) -> None:
    harness.inject(Trouble.METADATA_ABSENT)
    provider = harness.make_provider(project="acme-forensics", zone="us-central1-b", instance="worker-1")
    assert provider.node().name == "worker-1"
    assert describe(provider, harness.make_disk()).location == "us-central1-b"


def test_the_error_without_a_metadata_server_names_the_settings(harness: GceHarness) -> None:
    harness.inject(Trouble.METADATA_REFUSING)
    with pytest.raises(
        ConfigurationError, match=r"403 at http://.*set project, zone and instance in \[providers.disks\]"
    ):
        harness.make_provider().node()


def test_missing_credentials_are_a_configuration_error(
    harness: GceHarness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nothing.json"))
    with pytest.raises(ConfigurationError, match="Application Default Credentials"):
        describe(harness.make_provider(), harness.make_disk())


def test_the_universe_is_that_of_the_credentials(harness: GceHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_CLOUD_UNIVERSE_DOMAIN")
    assert describe(harness.make_provider(), harness.make_disk()).canonical_id.startswith("gce://projects/")


def test_a_universe_that_the_credentials_are_not_of_is_refused_in_words(harness: GceHarness) -> None:
    provider = harness.make_provider(universe_domain="s3nsapis.fr")
    with pytest.raises(ConfigurationError, match=r"s3nsapis\.fr.*emulated\.test: set universe_domain"):
        describe(provider, harness.make_disk())


@pytest.mark.parametrize(
    ("native", "path"),
    [
        ("https://www.s3nsapis.fr/compute/v1/projects/s3ns:acme/zones/u-france-east1-a/disks/d", "zones"),
        ("//compute.s3nsapis.fr/projects/s3ns:acme/regions/u-france-east1/disks/d", "regions"),
        ("u-france-east1-a/d", "zones"),
        ("u-france-east1/d", "regions"),
    ],
)
def test_a_disk_of_a_sovereign_cloud_is_named_like_others(native: str, path: str) -> None:
    disk = parse_disk(native, "s3ns:acme", "u-france-east1-b", "s3nsapis.fr")
    assert (disk.project, disk.scope.partition("/")[0], disk.location[:14]) == ("s3ns:acme", path, "u-france-east1")


def test_a_link_of_another_universe_is_no_disk_of_this_one() -> None:
    link = "https://www.s3nsapis.fr/compute/v1/projects/s3ns:acme/zones/u-france-east1-a/disks/d"
    with pytest.raises(InvalidDiskId):
        parse_disk(link, "acme", "us-central1-a", "googleapis.com")


def test_a_metadata_server_behind_a_proxy_is_called_that(
    harness: GceHarness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Our own questions never go through a proxy; those of Google's library do."""
    native = harness.make_disk()
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match=r"the proxy of http_proxy.*NO_PROXY=metadata\.google\.internal"):
        describe(harness.make_provider(), native)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert describe(harness.make_provider(), native).size_bytes


def test_credentials_that_are_not_accepted_are_access_denied(harness: GceHarness) -> None:
    native = harness.make_disk()
    harness.cloud.tokens.accepts = lambda _: False  # type: ignore[assignment,method-assign] # the account was disabled
    with pytest.raises(AccessDenied) as caught:
        describe(harness.make_provider(), native)
    assert caught.value.cloud_code == "authError"


def test_a_missing_sdk_is_an_error_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud.compute_v1", None)
    with pytest.raises(MissingExtra, match=r"pip install 'cloudmanager\[gce\]'"):
        GceProvider("disks", GceSettings())


def test_the_plugin_does_not_import_the_sdk() -> None:
    program = (
        "import sys, cloudmanager.providers.gce; print([name for name in sys.modules if name.startswith('google')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60, env=os.environ.copy()
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("trouble", "severity"), [(None, Severity.OK), (Trouble.READS_FAIL, Severity.PROBLEM)])
def test_the_doctor_hears_whether_it_works(harness: GceHarness, trouble: Trouble | None, severity: Severity) -> None:
    provider = harness.make_provider()
    if trouble is not None:
        harness.inject(trouble)
    findings = provider.diagnose()
    assert {finding.severity for finding in findings} == {severity}
    assert findings


def test_the_doctor_hears_how_many_disks_fit(harness: GceHarness) -> None:
    assert "1 of 16 disks attached (e2-medium)" in [finding.seen for finding in harness.make_provider().diagnose()]
    full = harness.make_provider(max_disks=1).diagnose()
    assert (Severity.WARNING, "1 of 1 disks attached (max_disks)") in [(each.severity, each.seen) for each in full]


def test_the_doctor_hears_of_an_instance_that_does_not_exist(harness: GceHarness) -> None:
    findings = harness.make_provider(instance="nobody").diagnose()
    assert findings[0].severity is Severity.PROBLEM
    assert "instances/nobody" in findings[0].seen


@pytest.mark.parametrize("name", ["", "Case-7", "case_7", "c" * 64, "-"])
def test_a_copy_needs_a_name_that_google_takes(harness: GceHarness, name: str) -> None:
    provider = harness.make_provider()
    disk = describe(provider, harness.make_disk())
    with pytest.raises(InvalidRequest, match="cannot be a name"):
        provider.snapshot(disk, name)


def test_a_name_that_another_disk_s_snapshot_has_is_refused(harness: GceHarness) -> None:
    provider = harness.make_provider()
    disks = [describe(provider, harness.make_disk()) for _ in range(2)]
    provider.snapshot(disks[0], "case-7")
    with pytest.raises(InvalidRequest, match="choose another name"):
        provider.snapshot(disks[1], "case-7")
