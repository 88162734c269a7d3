"""What the service offers besides `export`, and who is let in."""

import hashlib
import logging
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager.client import Access, AsyncCloudManager, Export, ExportLost, errors
from cloudmanager.client.model import AttachmentState, ExportState, NodeState, Severity
from cloudmanager.client.service import Service, default_holder
from cloudmanager.core import settings
from tests.client.conftest import MakeClient
from tests.client.daemon import SIZE, Daemon

pytestmark = pytest.mark.anyio

TOKEN = "correct-horse-battery-staple"
ODD_NAMES = ("with space#1?.img", "ünï.img", "100%25.img", "-.img", "sub/...img")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A service with a token, on a unix socket; a short path, for that has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="cm-") as short:
        digest = hashlib.sha256(TOKEN.encode()).hexdigest()
        server = {"listen": f"unix:{short}/cm.sock", "token_sha256": [digest], "log_level": "debug"}
        daemon = Daemon(tmp_path_factory.mktemp("guarded"), server=server)
        daemon.token = TOKEN
        daemon.image("a.img")
        daemon.started()
        yield daemon
        daemon.end()


async def test_an_export_can_be_looked_after_by_hand(client: AsyncCloudManager, daemon: Daemon) -> None:
    claimed = await client.claim("local:a.img", "scratch", ttl_seconds=60, note="by hand")
    assert (claimed.access, claimed.note) == (Access.SCRATCH, "by hand")
    assert claimed.incarnation == (await client.disk("local:a.img")).incarnation
    seen: list[Export] = []
    ready = await client.wait(claimed.id, timeout=20, on_progress=seen.append)
    assert (ready.id, ready.state, seen[-1]) == (claimed.id, ExportState.READY, ready)
    assert ready.address.is_writable
    assert (await client.get(claimed.id)).uri == ready.uri
    renewed = await client.renew(claimed.id, 600)
    assert renewed.expires_at > ready.expires_at
    assert (await client.release(claimed.id)).state in (ExportState.CLOSING, ExportState.CLOSED)
    with pytest.raises(errors.ExportOver):
        await client.renew(claimed.id)
    with pytest.raises(errors.ExportOver):
        await client.wait(claimed.id)


async def test_the_same_key_is_the_same_export(client: AsyncCloudManager) -> None:
    first = await client.claim("local:a.img", idempotency_key="my-key-1", holder="me")
    again = await client.claim("local:a.img", idempotency_key="my-key-1", holder="me")
    assert first.id == again.id
    with pytest.raises(errors.IdempotencyMismatch):
        await client.claim("local:a.img", "scratch", idempotency_key="my-key-1", holder="me")
    await client.release(first.id)


async def test_exports_are_listed_with_what_restricts_them(client: AsyncCloudManager) -> None:
    async with client.export("local:a.img", holder="lister") as disk:
        listed = [export async for export in client.exports(holder="lister", states=["ready"], access="read-only")]
        assert [export.id for export in listed] == [disk.id]
        assert listed[0].credentials is None
        assert [export async for export in client.exports(holder="nobody")] == []


async def test_a_list_is_read_to_its_last_page(
    client: AsyncCloudManager, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = request.node.name
    monkeypatch.setattr("cloudmanager.client.calls.PAGE_SIZE", "2")
    for _ in range(5):
        async with client.export("local:a.img", holder=holder):
            pass
    assert len([export async for export in client.exports(holder=holder)]) == 5


async def test_disks_are_found_by_a_part_of_their_name(client: AsyncCloudManager, daemon: Daemon) -> None:
    daemon.image("needle.img")
    found = [disk async for disk in client.disks("needle", provider="local")]
    assert [(disk.id, disk.size_bytes, disk.format) for disk in found] == [("local:needle.img", SIZE, "raw")]
    assert set(found[0].access) == set(Access)


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_a_disk_is_looked_at_by_its_name_however_odd(
    client: AsyncCloudManager, daemon: Daemon, name: str
) -> None:
    (daemon.images / "sub").mkdir(exist_ok=True)
    daemon.image(name)
    disk = await client.disk(f"local:{name}")
    assert (disk.id, disk.size_bytes) == (f"local:{name}", SIZE)
    assert disk.incarnation


@pytest.mark.parametrize("name", ["local:../a.img", "local:..", "local:sub/../a.img", "local:/etc/hostname"])
async def test_a_name_cannot_step_to_another_route(client: AsyncCloudManager, name: str) -> None:
    with pytest.raises((errors.DiskNotFound, errors.InvalidDiskId)):
        await client.disk(name)


@pytest.mark.parametrize("name", ["local:", "local", "", "nobody:a.img"])
async def test_a_name_that_is_none_is_an_error_with_a_name(client: AsyncCloudManager, name: str) -> None:
    with pytest.raises(errors.ServiceError):
        await client.disk(name)


async def test_attachments_providers_nodes_and_events_are_listed(client: AsyncCloudManager) -> None:
    async with client.export("local:a.img") as disk:
        attachments = [each async for each in client.attachments()]
        assert [(each.disk, each.state, each.is_ours) for each in attachments] == [
            ("local:a.img", AttachmentState.FOREIGN, False)
        ]
        assert [(each.name, each.type, each.error) async for each in client.providers()] == [("local", "local", None)]
        assert [each.name async for each in client.nodes()] == ["here"]
        events = [event.event async for event in client.audit(export_id=disk.id)]
        assert {"export.claimed", "export.ready"} <= set(events)


async def test_an_operator_can_cut_an_export_off(client: AsyncCloudManager, daemon: Daemon) -> None:
    with pytest.raises(ExportLost):
        async with client.export("local:a.img") as disk:
            assert (await client.force_release(disk.id, by="nina", reason="evacuation")).state == "closing"
    events = [event async for event in client.audit(export_id=disk.id)]
    assert [(event.ordered_by, event.detail) for event in events if event.event == "export.force-released"] == [
        ("nina", "evacuation")
    ]


async def test_an_operator_can_pause_a_provider(client: AsyncCloudManager) -> None:
    paused = await client.pause("local", by="nina", reason="audit")
    assert (paused.pause.by, paused.pause.reason) == ("nina", "audit")
    with pytest.raises(errors.ProviderPaused):
        await client.claim("local:a.img")
    assert (await client.resume("local")).pause is None


async def test_an_operator_can_drain_a_node(client: AsyncCloudManager) -> None:
    assert (await client.drain("here", by="nina")).state in (NodeState.DRAINING, NodeState.DRAINED)
    with pytest.raises(errors.NodeDraining):
        await client.claim("local:a.img")
    assert (await client.undrain("here")).state is NodeState.ACTIVE


async def test_health_says_what_was_looked_at(client: AsyncCloudManager) -> None:
    health = await client.health()
    assert health.ready
    assert {finding.severity for finding in health.findings} == {Severity.OK}


async def test_health_does_not_wait_for_a_service_that_is_away(make_client: MakeClient, tmp_path: Path) -> None:
    with pytest.raises(errors.Unreachable):
        await make_client("http://127.0.0.1:9", retry_seconds=1000).health()


async def test_its_connections_stay_open_while_it_is_entered(client: AsyncCloudManager) -> None:
    async with client as manager:
        first = await manager.health()
        assert await manager.health() == first
        async with manager.export("local:a.img"):
            pass


async def test_a_unix_socket_and_a_token_lead_to_the_bytes(
    make_client: MakeClient, guarded: Daemon, tmp_path: Path
) -> None:
    async with make_client(guarded.url, TOKEN).export("local:a.img") as disk:
        subprocess.run(["nbdcopy", disk.uri, tmp_path / "copy"], check=True)
    assert (tmp_path / "copy").read_bytes() == (guarded.images / "a.img").read_bytes()


async def test_url_and_token_come_from_the_environment(
    make_client: MakeClient, guarded: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDMANAGER_URL", guarded.url)
    monkeypatch.setenv("CLOUDMANAGER_TOKEN", TOKEN)
    assert [node.name async for node in make_client().nodes()] == ["here"]


@pytest.mark.parametrize("token", [None, "wrong-horse"])
async def test_who_has_no_valid_token_is_told_so(make_client: MakeClient, guarded: Daemon, token: str | None) -> None:
    with pytest.raises(errors.Unauthorized):
        await make_client(guarded.url, token).get("any")


async def test_the_token_is_shown_nowhere(
    make_client: MakeClient, guarded: Daemon, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    client = make_client(guarded.url, TOKEN)
    async with client.export("local:a.img") as disk:
        shown = [repr(client), repr(disk), str(disk), repr(Service.of(guarded.url, TOKEN)), repr(disk.export)]
    with pytest.raises(errors.ServiceError) as refused:
        await client.get("no such export")
    shown += [repr(refused.value), str(refused.value), caplog.text, *capfd.readouterr()]
    assert caplog.text
    assert not [text for text in shown if TOKEN in text]


@pytest.mark.parametrize(
    "url",
    ["localhost:8600", "ftp://host", "http://", "http://host:99999999", "unix:relative", "http://h/?a=b", "http://h:x"],
)
def test_an_address_that_is_none_is_refused_with_how_to_write_it(url: str) -> None:
    with pytest.raises(errors.InvalidSetup, match="write"):
        Service.of(url, None, environment={})


def test_a_token_that_does_not_fit_into_a_header_is_refused_without_showing_it() -> None:
    with pytest.raises(errors.InvalidSetup) as refused:
        Service.of(None, "sécret", environment={})
    assert "cret" not in str(refused.value)


def test_a_password_in_the_address_is_refused_without_showing_it() -> None:
    with pytest.raises(errors.InvalidSetup) as refused:
        Service.of("http://me:hunter2@host:8600", None, environment={})
    assert "hunter2" not in str(refused.value)


def test_without_anything_it_is_the_service_of_this_machine() -> None:
    assert Service.of(None, None, environment={}).base_url == "http://127.0.0.1:8600"
    assert ":" in default_holder({})


async def test_an_access_that_is_none_is_refused(client: AsyncCloudManager) -> None:
    with pytest.raises(errors.InvalidRequest, match="read-only, scratch, read-write"):
        await client.claim("local:a.img", "read-mostly")


async def test_an_invalid_request_says_which_field_is_wrong(client: AsyncCloudManager) -> None:
    with pytest.raises(errors.InvalidRequest) as refused:
        await client.claim("local:a.img", ttl_seconds=0)
    assert len(refused.value.mistakes) == 1
    assert refused.value.mistakes[0].startswith("ttl_seconds: ")


def test_the_service_accepts_the_environment_of_a_client() -> None:
    """One machine may run both."""
    assert settings.load(None, {"CLOUDMANAGER_URL": "x", "CLOUDMANAGER_TOKEN": "y", "CLOUDMANAGER_HOLDER": "z"})
