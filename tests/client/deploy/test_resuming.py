"""A deployment that was cut off goes on where it ended."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloudmanager.client.address import NbdAddress
from cloudmanager.client.deploy import Progress
from cloudmanager.client.deploy.errors import Cancelled, ConnectionLost, DeployError, DifferenceFound, TargetInUse
from cloudmanager.client.deploy.journal import Journal
from cloudmanager.client.deploy.nbd_ends import NbdWriter
from tests.client.deploy import images
from tests.client.deploy.conftest import Put
from tests.client.deploy.relay import Relay, relayed
from tests.client.deploy.servers import Server, serving
from tests.client.deploy.web import serving_web
from tests.waiting import eventually

SIZE = 5 * 64 * images.MIB
HALF = 9 * images.MIB
"""Of what is sent in all."""

WORKER = """
import sys
from pathlib import Path
from cloudmanager.client import NbdAddress
from cloudmanager.client.deploy import deploy, journal
journal.COMMIT_SECONDS = 0.0
source, uri, journals, *options = sys.argv[1:]
target = NbdAddress(uri, is_writable=True)
keywords = {"target_id": "the disk", "connections": 1, "verify": "verify" in options}
deploy(source, target, journal_directory=Path(journals), **keywords)
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images.sparse_image(tmp_path_factory.mktemp("resume") / "image.raw", SIZE)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    disk = tmp_path / "target.raw"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    with serving(disk) as server:
        yield server


@pytest.fixture
def relay(server: Server) -> Iterator[Relay]:
    with relayed(server.socket) as relay:
        yield relay


@pytest.fixture(autouse=True)
def _commit_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each unit is made durable as soon as it is written: a test cannot wait for two seconds to pass."""
    monkeypatch.setattr("cloudmanager.client.deploy.journal.COMMIT_SECONDS", 0.0)


def _journal(journals: Path) -> str:
    return "".join(path.read_text() for path in journals.glob("*.jsonl"))


def _head_of(server: Server) -> bytes:
    with server.disk.open("rb") as disk:
        return disk.read(images.MIB).strip(b"\0")


def test_content_goes_over_as_many_connections_as_are_wanted(
    image: Path, server: Server, relay: Relay, put: Put
) -> None:
    def opened(connections: int) -> int:
        before = relay.opened
        relay.hold_after(relay.sent_bytes + HALF)
        thread = threading.Thread(
            target=put, args=(image, relay.address), kwargs={"connections": connections, "overwrite": True}
        )
        thread.start()
        relay.await_hold()
        if connections > 1:  # the others have units left to take, so they come; one more is made for the end
            eventually(lambda: relay.opened - before >= alone - 1 + connections - 1)
        relay.hold_after(None)
        thread.join()
        return relay.opened - before

    put(image, relay.address)  # from now on each does the same
    alone = opened(1)
    assert opened(3) == alone + 2


def test_nothing_is_noted_as_durable_before_a_flush(
    image: Path, server: Server, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that says more than the disk kept would leave a hole in the image after a power cut."""
    done: list[str] = []
    flush, add = NbdWriter.flush, Journal.add

    def noted_flush(writer: NbdWriter) -> None:
        flush(writer)
        done.append("flush")

    def noted_add(journal: Journal, *units: Any) -> None:
        done.append("add")
        add(journal, *units)

    monkeypatch.setattr(NbdWriter, "flush", noted_flush)
    monkeypatch.setattr(Journal, "add", noted_add)
    put(image, server.address, connections=1)
    assert done.count("add") > 1
    assert all(done[at - 1] == "flush" for at, what in enumerate(done) if what == "add")
    assert done[-1] == "flush"  # the head, too


@pytest.mark.parametrize(
    ("form", "how"),
    [
        ("raw", "verify"),
        ("zstd", ""),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("raw", ""), ("zstd", "verify"))),
    ],
)
def test_after_sigkill_only_what_is_missing_is_written(
    how: str, form: str, image: Path, server: Server, relay: Relay, journals: Path, put: Put
) -> None:
    source = image if form == "raw" else images.compressed(image, "zstd")
    relay.hold_after(HALF)
    command = [sys.executable, "-c", WORKER, str(source), relay.address.uri, str(journals), how]
    with subprocess.Popen(command) as worker:
        relay.await_hold()
        eventually(lambda: '"units"' in _journal(journals))
        worker.kill()
    assert not _head_of(server)
    relay.hold_after(None)
    before = relay.sent_bytes
    result = put(source, relay.address, target_id="the disk", verify=bool(how))
    assert images.same(image, server.disk)
    assert result.resumed_bytes >= 2 * 64 * images.MIB
    assert relay.sent_bytes - before < 3 * HALF // 2
    assert _journal(journals) == ""


def test_without_resume_everything_is_written_again(
    image: Path, server: Server, relay: Relay, journals: Path, put: Put
) -> None:
    _interrupt(image, relay, journals, put)
    result = put(image, relay.address, target_id="the disk", resume=False)
    assert result.resumed_bytes == 0
    assert images.same(image, server.disk)


def test_a_target_that_was_changed_in_between_is_written_as_a_whole(
    image: Path, server: Server, relay: Relay, journals: Path, put: Put
) -> None:
    _interrupt(image, relay, journals, put)
    with server.disk.open("r+b") as disk:
        disk.seek(64 * images.MIB)
        disk.write(b"somebody else" * 100_000)
    result = put(image, relay.address, target_id="the disk", overwrite=True)
    assert result.resumed_bytes == 0
    assert images.same(image, server.disk)


def test_a_changed_image_is_written_as_a_whole(
    image: Path, server: Server, relay: Relay, journals: Path, put: Put, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.raw"
    subprocess.run(["cp", "--sparse=always", str(image), str(copy)], check=True)
    _interrupt(copy, relay, journals, put)
    with copy.open("r+b") as file:
        file.seek(65 * images.MIB)
        file.write(b"an update")
    result = put(copy, relay.address, target_id="the disk", overwrite=True)
    assert result.resumed_bytes == 0
    assert images.same(copy, server.disk)


def _interrupt(source: Path | NbdAddress | str, relay: Relay, journals: Path, put: Put) -> None:
    cancelled = threading.Event()
    relay.hold_after(HALF)
    errors: list[DeployError] = []

    def run() -> None:
        try:
            put(source, relay.address, target_id="the disk", connections=1, cancelled=cancelled)
        except DeployError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    relay.await_hold()
    eventually(lambda: '"units"' in _journal(journals))
    cancelled.set()
    relay.hold_after(None)
    thread.join(60)
    assert not thread.is_alive()
    assert isinstance(errors[0], Cancelled)
    assert errors[0].is_resumable


def _children() -> set[str]:
    return set(Path(f"/proc/{os.getpid()}/task/{threading.main_thread().native_id}/children").read_text().split())


def test_cancelling_leaves_a_journal_and_no_head_and_nothing_running(
    image: Path, server: Server, relay: Relay, journals: Path, put: Put
) -> None:
    before = _children()
    _interrupt(images.converted(image, "qcow2", "image.qcow2"), relay, journals, put)
    assert '"units"' in _journal(journals)
    assert not _head_of(server)
    assert not [thread for thread in threading.enumerate() if thread.name == "deploy"]
    assert _children() <= before


def test_what_the_listener_raises_ends_the_deployment(image: Path, server: Server, journals: Path, put: Put) -> None:
    class Enough(Exception):
        pass

    def tell(progress: Progress) -> None:
        if progress.phase == "writing":
            raise Enough

    with pytest.raises(Enough):
        put(image, server.address, progress=tell)
    assert not [thread for thread in threading.enumerate() if thread.name == "deploy"]
    assert not _head_of(server)


@pytest.mark.parametrize("form", ["raw", "zstd"])
def test_a_connection_that_breaks_is_made_again(form: str, image: Path, server: Server, relay: Relay, put: Put) -> None:
    source = image if form == "raw" else images.compressed(image, "zstd")
    relay.hold_after(HALF)
    messages: list[str] = []
    thread = threading.Thread(target=_cut_when_held, args=(relay,))
    thread.start()
    result = put(source, relay.address, progress=lambda progress: messages.append(progress.remark), verify=True)
    thread.join()
    assert images.same(image, server.disk)
    assert result.resumed_bytes == 0
    assert any("Trying again" in remark for remark in messages)


def _cut_when_held(relay: Relay) -> None:
    relay.await_hold()
    relay.cut()
    relay.hold_after(None)


def test_a_server_that_is_killed_and_comes_back_gets_the_rest(
    image: Path, server: Server, relay: Relay, put: Put
) -> None:
    with _killed_and_started_again(server, relay):
        put(image, relay.address)
    assert images.same(image, server.disk)


def test_what_a_killed_server_had_not_flushed_is_written_again(
    image: Path, tmp_path: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A qcow2's tables are in the server's memory until then, and with them all that was written."""
    monkeypatch.setattr("cloudmanager.client.deploy.journal.COMMIT_SECONDS", math.inf)
    disk = tmp_path / "target.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, str(SIZE)], check=True)
    with serving(disk, image_format="qcow2") as server, relayed(server.socket) as relay:
        with _killed_and_started_again(server, relay):
            put(image, relay.address)
        subprocess.run(["nbdcopy", server.address.uri, tmp_path / "read.raw"], check=True)
    assert images.same(image, tmp_path / "read.raw")


@contextmanager
def _killed_and_started_again(server: Server, relay: Relay) -> Iterator[None]:
    """When half of the image has come."""

    def fail() -> None:
        relay.await_hold()
        server.kill()
        relay.cut()
        relay.hold_after(None)
        server.start()

    relay.hold_after(HALF)
    thread = threading.Thread(target=fail)
    thread.start()
    yield
    thread.join()


def test_a_server_that_stays_away_is_given_up_with_a_journal(
    image: Path, server: Server, relay: Relay, journals: Path, put: Put
) -> None:
    def fail() -> None:
        relay.await_hold()
        eventually(lambda: '"units"' in _journal(journals))
        server.kill()
        relay.cut()
        relay.hold_after(None)

    relay.hold_after(HALF)
    thread = threading.Thread(target=fail)
    thread.start()
    with pytest.raises(ConnectionLost) as caught:
        put(image, relay.address, target_id="the disk", connections=1, reconnect_seconds=0.5)
    thread.join()
    assert caught.value.is_resumable
    server.start()
    assert put(image, relay.address, target_id="the disk").resumed_bytes > 0
    assert images.same(image, server.disk)


def test_two_deployments_onto_one_target_exclude_each_other(
    image: Path, server: Server, relay: Relay, journals: Path, put: Put
) -> None:
    relay.hold_after(HALF)
    command = [sys.executable, "-c", WORKER, str(image), relay.address.uri, str(journals)]
    with subprocess.Popen(command) as worker:
        relay.await_hold()
        with pytest.raises(TargetInUse, match="Another deployment"):
            put(image, server.address, target_id="the disk")
        worker.kill()


def test_an_export_that_changed_between_the_runs_leaves_no_mixture(
    image: Path, server: Server, relay: Relay, journals: Path, put: Put, tmp_path: Path
) -> None:
    """Nothing tells that it changed: the sample finds it, or the verification, which reads the image again."""
    copy = tmp_path / "copy.raw"
    subprocess.run(["cp", "--sparse=always", str(image), str(copy)], check=True)
    with serving(copy, "--shared=8") as source:
        _interrupt(source.address, relay, journals, put)
        known = json.loads(_journal(journals).splitlines()[2])["units"]
        with copy.open("r+b") as file:
            file.seek(int(next(iter(known))) * 64 * images.MIB + 32 * images.MIB)
            file.write(b"an update")
        try:
            result = put(source.address, relay.address, target_id="the disk", verify=True)
        except DifferenceFound:
            return
        assert result.resumed_bytes == 0
    assert images.same(copy, server.disk)


def test_an_address_that_tells_no_version_is_read_again_and_compared(
    image: Path, server: Server, relay: Relay, journals: Path, put: Put
) -> None:
    with serving_web(image) as site:
        site.etag = ""
        _interrupt(site.url, relay, journals, put)
        before = len(site.asked)
        assert put(site.url, relay.address, target_id="the disk").resumed_bytes
        assert len(site.asked) == before + 3  # its start, all of it, and whether it is still that long
    assert images.same(image, server.disk)
