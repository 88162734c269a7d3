"""The emulated Compute Engine speaks the API of Google's own description of it, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from google.api_core import exceptions
from google.cloud import compute_v1

from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.cloud.gce import Emulation, schema
from cloudmanager.testing.cloud.gce.emulation import PROJECT, PROJECT_NUMBER
from cloudmanager.testing.cloud.gce.errors import THROTTLES
from tests.providers.gce.clients import Clients

ZONE = f"projects/{PROJECT}/zones/us-central1-b"
ATTACH = f"{ZONE}/instances/worker-1/attachDisk"
DISK = f"{ZONE}/disks/worker-1"


def says(answer: httpx.Response) -> tuple[int, str, str]:
    """Status, reason and message, after a look at the form."""
    error = answer.json()["error"]
    assert error["code"] == answer.status_code
    assert error["message"] == error["errors"][0]["message"]
    return answer.status_code, error["errors"][0]["reason"], error["message"]


def _write(file: Path, content: bytes) -> None:
    with file.open("r+b") as opened:
        opened.write(content)


def test_every_emulated_method_is_one_of_the_api(cloud: Emulation) -> None:
    known = {method.name for method in schema.compute_v1()._methods}
    assert set(cloud._handlers) <= known


@pytest.mark.parametrize(
    ("body", "reason", "expected_message"),
    [
        ({"source": DISK, "mode": "READ_MOSTLY"}, "invalid", "Must be one of: READ_ONLY, READ_WRITE"),
        ({"source": DISK, "type": "FLOPPY"}, "invalid", "Must be one of"),
        ({"source": 7}, "invalid", "A value of type string is expected"),
        ({"source": DISK, "autoDelete": "yes"}, "invalid", "type boolean"),
        ({"source": DISK, "index": True}, None, None),
        ({"source": DISK, "diskSizeGb": "ten"}, "invalid", "A number is expected"),
        ({"source": DISK, "devicename": "e"}, "badRequest", 'Unknown name "devicename"'),
        ({"source": DISK, "initializeParams": {"disksize": 1}}, "badRequest", "resource.initializeParams"),
        ({"source": DISK, "guestOsFeatures": [{"type": "WARP"}]}, "invalid", r"resource.guestOsFeatures[0].type"),
        ([], "parseError", "Parse Error"),
        ({}, "required", "resource.source"),
    ],
)
def test_a_body_that_is_not_as_described_is_refused(
    raw: httpx.Client, body: object, reason: str | None, expected_message: str | None
) -> None:
    if reason is None:
        # An output only field is ignored, as Google does: the disk, a boot disk, is in use.
        assert says(raw.post(ATTACH, json=body))[1] == "resourceInUseByAnotherResource"
        return
    status, seen, message = says(raw.post(ATTACH, json=body))
    assert (status, seen) == (400, reason)
    assert expected_message is not None
    assert expected_message in message


@pytest.mark.parametrize(
    ("path", "expected_message"),
    [
        (f"{ZONE}/disks?maxResults=many", "A number is expected"),
        (f"{ZONE}/disks?maxResults=501", "between 0 and 500"),
        (f"{ZONE}/disks?colour=red", 'Unknown name "colour"'),
        (f"{ZONE}/disks?pageToken=forged", "page token is invalid"),
        (f"{ZONE}/disks?filter=colour%20eq%20red", "Invalid list filter expression"),
        (f"{ZONE}/disks?filter=(name%20=%20a)%20OR%20(name%20=%20b)", "Invalid list filter expression"),
        (f"{ZONE}/disks?orderBy=size", "orderBy"),
        (f"{ZONE}/disks/Evidence", "Must be a match of regex"),
        ("projects/Bad_Project/zones/us-central1-b/disks", "Must be a match of regex"),
    ],
)
def test_parameters_that_are_not_as_described_are_refused(raw: httpx.Client, path: str, expected_message: str) -> None:
    status, _, message = says(raw.get(path))
    assert status == 400
    assert expected_message in message


def test_a_missing_parameter_is_named(raw: httpx.Client) -> None:
    assert says(raw.post(f"{ZONE}/instances/worker-1/detachDisk"))[2] == "Required parameter: deviceName"


def test_a_body_that_is_no_json_is_refused(raw: httpx.Client) -> None:
    assert says(raw.post(ATTACH, content=b"{"))[1] == "parseError"


def test_what_is_no_method_and_what_is_not_emulated_are_told_apart(raw: httpx.Client) -> None:
    assert raw.get("projects/p/warp-drives").status_code == 404
    assert raw.get(f"{ZONE}/instances").status_code == 501


def test_other_projects_zones_and_regions_do_not_exist(raw: httpx.Client) -> None:
    assert raw.get(f"projects/other-project/zones/us-central1-b/disks/{PROJECT}").status_code == 404
    assert raw.get(f"projects/{PROJECT}/zones/moon-1a/disks").status_code == 404
    assert raw.get(f"projects/{PROJECT}/regions/moon/disks").status_code == 404


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer stolen"}, {"Authorization": "Bearer a.b.c"}])
def test_without_good_credentials_nothing_is_answered(cloud: Emulation, header: dict[str, str]) -> None:
    answer = httpx.get(f"{cloud.url}/compute/v1/{DISK}", headers=header)
    assert says(answer) == (401, "authError", "Invalid Credentials")


@pytest.mark.parametrize("form", list(THROTTLES))
def test_throttling_has_the_forms_of_the_real_one(cloud: Emulation, raw: httpx.Client, form: str) -> None:
    cloud.faults.add(Fault("disks.get", Effect.THROTTLE, form=form, retry_after=12))
    answer = raw.get(DISK)
    assert says(answer)[:2] == THROTTLES[form][:2]
    assert answer.json()["error"]["errors"][0]["domain"] == "usageLimits"
    assert answer.headers["Retry-After"] == "12"


def test_a_disk_looks_as_described(cloud: Emulation, clients: Clients) -> None:
    path = cloud.make_disk("evidence-7", size_bytes=2**30 + 1, labels={"case": "7"})
    cloud.attach_by_hand(path, "worker-1")
    found = clients.disks.get(project=PROJECT, zone="us-central1-b", disk="evidence-7")
    assert (found.name, found.size_gb, found.status, dict(found.labels)) == ("evidence-7", 2, "READY", {"case": "7"})
    assert found.self_link == f"https://www.emulated.test/compute/v1/{path}"
    assert found.zone.endswith(f"/{ZONE}")
    assert found.type_.endswith("/diskTypes/pd-balanced")


def test_a_disk_is_found_by_its_number_too(cloud: Emulation, clients: Clients) -> None:
    number = cloud.state.disks[cloud.make_disk("evidence-7")].id
    assert clients.disks.get(project=PROJECT, zone="us-central1-b", disk=str(number)).name == "evidence-7"


def test_the_aggregated_list_names_every_scope_and_pages(cloud: Emulation, clients: Clients) -> None:
    made = {cloud.make_disk(f"d-{place}", location=place) for place in (*cloud.state.zones, *cloud.state.regions)}
    request = compute_v1.AggregatedListDisksRequest(project=PROJECT, max_results=2)
    pages = list(clients.disks.aggregated_list(request=request).pages)
    scopes = {f"zones/{zone}" for zone in cloud.state.zones} | {f"regions/{name}" for name in cloud.state.regions}
    assert len(pages) == -(-len(cloud.state.disks) // 2)
    for page in pages:
        assert set(page.items) == scopes
        assert all(listed.disks or listed.warning.code == "NO_RESULTS_ON_PAGE" for listed in page.items.values())
    links = [disk.self_link for page in pages for listed in page.items.values() for disk in listed.disks]
    assert len(links) == len(set(links)) == len(cloud.state.disks)
    assert made <= {link.partition("/compute/v1/")[2] for link in links}


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("name = evidence-1", ["evidence-1"]),
        ('name != "evidence-1"', ["evidence-2", "worker-1", "worker-2"]),
        ("name eq evidence-.*", ["evidence-1", "evidence-2"]),
        ("name eq evidence", []),
        ('name ne "evidence.*"', ["worker-1", "worker-2"]),
        ("labels.case = 2", ["evidence-2"]),
        ("(labels.case = 2) (status = READY)", ["evidence-2"]),
        ("(labels.case = 2) AND (status = CREATING)", []),
    ],
)
def test_filters_choose(cloud: Emulation, clients: Clients, expression: str, names: list[str]) -> None:
    for number in (1, 2):
        cloud.make_disk(f"evidence-{number}", labels={"case": str(number)})
    request = compute_v1.ListDisksRequest(project=PROJECT, zone="us-central1-b", filter=expression)
    assert [disk.name for disk in clients.disks.list(request=request)] == names


def test_a_snapshot_keeps_the_bytes_of_its_moment_and_a_disk_is_made_from_it(
    cloud: Emulation, clients: Clients
) -> None:
    source = cloud.make_disk("evidence-7")
    _write(cloud.backing(source), b"as it was")
    wanted = compute_v1.Snapshot(name="snap", source_disk=source)
    clients.wait(clients.snapshots.insert_unary(project=PROJECT, snapshot_resource=wanted))
    _write(cloud.backing(source), b"changed!!")
    copy = compute_v1.Disk(name="copy", source_snapshot=f"projects/{PROJECT}/global/snapshots/snap")
    clients.wait(clients.disks.insert_unary(project=PROJECT, zone="us-central1-b", disk_resource=copy))
    with cloud.backing(f"{ZONE}/disks/copy").open("rb") as opened:
        assert opened.read(9) == b"as it was"
    with pytest.raises(exceptions.Conflict, match="already exists"):
        clients.snapshots.insert_unary(project=PROJECT, snapshot_resource=wanted)


def test_a_snapshot_is_not_ready_before_it_is_stored(tmp_path: Path) -> None:
    with Emulation(tmp_path / "slow", pace=1.0) as cloud:
        cloud.timeline.freeze()
        clients = Clients(cloud)
        wanted = compute_v1.Snapshot(name="snap", source_disk=cloud.make_disk("evidence-7"))
        clients.snapshots.insert_unary(project=PROJECT, snapshot_resource=wanted)
        assert clients.snapshots.get(project=PROJECT, snapshot="snap").status == "UPLOADING"
        copy = compute_v1.Disk(name="copy", source_snapshot=f"projects/{PROJECT}/global/snapshots/snap")
        with pytest.raises(exceptions.BadRequest, match="is not ready"):
            clients.disks.insert_unary(project=PROJECT, zone="us-central1-b", disk_resource=copy)
        cloud.timeline.advance(60)
        assert clients.snapshots.get(project=PROJECT, snapshot="snap").status == "READY"


def test_a_disk_in_use_is_not_deleted(cloud: Emulation, clients: Clients) -> None:
    cloud.attach_by_hand(cloud.make_disk("evidence-7"), "worker-1")
    with pytest.raises(exceptions.BadRequest, match="already being used"):
        clients.disks.delete_unary(project=PROJECT, zone="us-central1-b", disk="evidence-7")
    cloud.detach_by_hand(f"{ZONE}/disks/evidence-7", "worker-1")
    clients.disks.delete_unary(project=PROJECT, zone="us-central1-b", disk="evidence-7")
    with pytest.raises(exceptions.NotFound):
        clients.disks.get(project=PROJECT, zone="us-central1-b", disk="evidence-7")


def test_the_quota_ends_a_project_s_growth(tmp_path: Path) -> None:
    with Emulation(tmp_path / "poor", quota_gb=3) as cloud:
        clients = Clients(cloud)
        wanted = [compute_v1.Disk(name=f"d-{number}", size_gb=2) for number in (1, 2)]
        ended = [
            clients.wait(clients.disks.insert_unary(project=PROJECT, zone="us-central1-b", disk_resource=disk))
            for disk in wanted
        ]
        assert [[error.code for error in operation.error.errors] for operation in ended] == [[], ["QUOTA_EXCEEDED"]]


def test_a_machine_type_tells_how_many_disks_fit(raw: httpx.Client) -> None:
    limits = [raw.get(f"{ZONE}/machineTypes/{name}").json()["maximumPersistentDisks"] for name in ("e2-micro", "n2-4x")]
    assert limits == [16, 128]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("instance/name", "worker-1"),
        ("instance/zone", f"projects/{PROJECT_NUMBER}/zones/us-central1-b"),
        ("instance/machine-type", f"projects/{PROJECT_NUMBER}/machineTypes/n2-standard-4"),
        ("project/project-id", PROJECT),
    ],
)
def test_the_metadata_server_says_who_the_machine_is(cloud: Emulation, key: str, value: str) -> None:
    url = f"http://{cloud.metadata_host('worker-1')}/computeMetadata/v1/{key}"
    answer = httpx.get(url, headers={"Metadata-Flavor": "Google"})
    assert (answer.text, answer.headers["Metadata-Flavor"]) == (value, "Google")


def test_the_metadata_server_refuses_those_who_do_not_know_it(cloud: Emulation) -> None:
    url = f"http://{cloud.metadata_host('worker-1')}/computeMetadata/v1/instance/name"
    assert httpx.get(url).status_code == 403
    assert httpx.get(url, headers={"Metadata-Flavor": "Google", "X-Forwarded-For": "10.0.0.1"}).status_code == 403
    assert httpx.get(f"{url}x", headers={"Metadata-Flavor": "Google"}).status_code == 404


def test_application_default_credentials_come_from_the_metadata_server(cloud: Emulation) -> None:
    """In a process of its own: google-auth reads the variables when it is imported."""
    program = """if True:
        import google.auth
        from google.api_core.client_options import ClientOptions
        from google.cloud import compute_v1
        credentials, project = google.auth.default()
        client = compute_v1.ZonesClient(credentials=credentials, client_options=ClientOptions(api_endpoint="URL"))
        print(project, [zone.name for zone in client.list(project=project)])
    """.replace("URL", cloud.url)
    environment = {"PATH": "/usr/bin", "HOME": "/nonexistent", **cloud.environment("worker-1")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == f"{PROJECT} {list(cloud.state.zones)}"


def test_the_key_file_is_nobody_else_s_to_read(cloud: Emulation) -> None:
    assert cloud.credentials_file.stat().st_mode & 0o077 == 0
    assert json.loads(cloud.credentials_file.read_text())["type"] == "service_account"
