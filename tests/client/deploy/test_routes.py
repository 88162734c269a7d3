"""Content that goes compressed through the service that exports the target, and the choice between the ways."""

from __future__ import annotations

import http.client
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudmanager.client import CloudManager, ExportedDisk
from cloudmanager.client.address import Credentials, NbdAddress
from cloudmanager.client.deploy import Progress, Route, deployment, route, upload
from cloudmanager.client.deploy.ends import Unit
from cloudmanager.client.deploy.errors import Cancelled, DifferenceFound, TargetError
from cloudmanager.client.deploy.journal import Ledger
from cloudmanager.client.deploy.route import Comparison, Pace
from cloudmanager.client.deploy.upload import Packer
from cloudmanager.client.service import Service, UploadEndpoint
from cloudmanager.core.model import CLAIMING_STATES
from cloudmanager.core.records import ExportFilter
from cloudmanager.transfer.frames import Encoding, Frame
from tests.api import service as api
from tests.client.daemon import Daemon
from tests.client.deploy import images
from tests.client.deploy.conftest import Put
from tests.waiting import eventually

MIB = images.MIB
SIZE = 5 * 64 * MIB

ALWAYS = """
import math
from cloudmanager.client.deploy import deployment, journal, route
deployment.COMPARISON = route.Comparison(
    fast_enough=math.inf, least_seconds=0.0, least_bytes=1, margin=0.0, worth_a_try=0.0, wire_step_bytes=1
)
journal.COMMIT_SECONDS = 0.0
"""
KILLED = (
    ALWAYS
    + """
import os, signal, sys
from pathlib import Path
from cloudmanager.client import CloudManager
from cloudmanager.client.deploy import deploy
url, disk, source, journals = sys.argv[1:]

def progress(told):
    if Path(journals).exists() and any('units' in path.read_text() for path in Path(journals).glob('*')):
        os.kill(os.getpid(), signal.SIGKILL)

with CloudManager(url).export(disk, "read-write") as exported:
    deploy(source, exported.address, upload_via=exported.upload_via, target_id="the disk", connections=1,
           journal_directory=Path(journals), progress=progress)
"""
)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of which the content can be compressed."""
    path = images.sparse_image(tmp_path_factory.mktemp("ways") / "image.raw", SIZE)
    with path.open("r+b") as file:
        for at in range(3 * MIB, SIZE, 8 * MIB):
            file.seek(at)
            file.write(b"all work and no play makes " * 40_000)
    return path


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def service(directory: Path) -> Iterator[api.Service]:
    with api.running(api.settings_for(directory)) as service:
        yield service


@pytest.fixture
def disk(directory: Path, service: api.Service, request: pytest.FixtureRequest) -> Path:
    return _empty(directory / "images" / f"{request.node.originalname}.raw")


@pytest.fixture
def exported(service: api.Service, disk: Path) -> Iterator[ExportedDisk]:
    with CloudManager(service.url).export(f"local:{disk.name}", "read-write") as exported:
        yield exported


def _empty(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


COMPRESSED_AT_ONCE = Comparison(
    fast_enough=math.inf, least_seconds=0.0, least_bytes=1, margin=0.0, worth_a_try=0.0, wire_step_bytes=1
)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compressed way is found to be the faster one, at once."""
    monkeypatch.setattr(deployment, "COMPARISON", COMPRESSED_AT_ONCE)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("verify", [False, True])
def test_compressed_content_arrives(
    verify: bool, image: Path, disk: Path, exported: ExportedDisk, put: Put, reported: list[Progress]
) -> None:
    result = put(image, exported.address, upload_via=exported.upload_via, verify=verify, progress=reported.append)
    assert images.same(image, disk)
    assert result.route is Route.COMPRESSED
    assert any("compressed to the service" in progress.remark for progress in reported)


@pytest.mark.usefixtures("always")
def test_what_the_connection_does_not_take_at_once_is_sent_then(
    image: Path, disk: Path, exported: ExportedDisk, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected, left = http.client.HTTPConnection.connect, []

    def connect(connection: http.client.HTTPConnection) -> None:
        connected(connection)
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)

    monkeypatch.setattr(http.client.HTTPConnection, "connect", connect)
    after = upload._after

    def noted(*arguments: Any) -> Any:
        left.append(after(*arguments))
        return left[-1]

    monkeypatch.setattr(upload, "_after", noted)
    put(image, exported.address, upload_via=exported.upload_via)
    assert images.same(image, disk)
    assert any(left)


@pytest.mark.usefixtures("always")
def test_a_service_that_has_written_less_than_was_sent_is_not_believed(
    image: Path, exported: ExportedDisk, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = upload.ServiceLine.send

    def send(line: upload.ServiceLine, frame: Frame) -> None:
        sent(line, frame)
        line._sent_bytes += 1

    monkeypatch.setattr(upload.ServiceLine, "send", send)
    with pytest.raises(TargetError, match=r"has written \d+ bytes of the \d+ that were sent"):
        put(image, exported.address, upload_via=exported.upload_via)


@pytest.mark.usefixtures("always")
def test_a_stream_goes_compressed_too(image: Path, disk: Path, exported: ExportedDisk, put: Put) -> None:
    result = put(images.compressed(image, "zstd"), exported.address, upload_via=exported.upload_via, verify=True)
    assert images.same(image, disk)
    assert result.route is Route.COMPRESSED


@pytest.mark.usefixtures("always")
def test_what_the_target_held_is_replaced(image: Path, disk: Path, exported: ExportedDisk, put: Put) -> None:
    with disk.open("r+b") as file:
        for at in range(0, SIZE, 16 * MIB):
            file.seek(at)
            file.write(b"\xa5" * 3 * MIB)
    put(image, exported.address, upload_via=exported.upload_via, overwrite=True, verify=True)
    assert images.same(image, disk)


def test_on_a_fast_link_nothing_is_compressed(
    image: Path, disk: Path, exported: ExportedDisk, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "COMPARISON", Comparison(fast_enough=0.0))
    monkeypatch.setattr(route.RouteChoice, "wire", lambda *_: pytest.fail("the other way was tried"))
    result = put(image, exported.address, upload_via=exported.upload_via)
    assert images.same(image, disk)
    assert result.route is Route.NBD


def test_a_way_that_is_not_faster_by_the_margin_is_not_gone(
    image: Path, disk: Path, exported: ExportedDisk, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "COMPARISON", replace(COMPRESSED_AT_ONCE, margin=math.inf))
    result = put(image, exported.address, upload_via=exported.upload_via)
    assert images.same(image, disk)
    assert result.route is Route.NBD


def test_who_has_left_counts_for_the_time_in_which_it_sent_something(exported: ExportedDisk) -> None:
    """Otherwise the others would be taken for all, or for faster than they are beside it."""
    chosen = route.RouteChoice(None, exported.upload_via)  # type: ignore[arg-type] # the target is not looked at
    chosen._left.append(_pace(bytes_=6 * MIB, since=time.monotonic() - 2))
    assert chosen._rate() == pytest.approx(3 * MIB, rel=0.05)


def _pace(bytes_: int, since: float) -> Pace:
    pace = Pace()
    pace.bytes, pace.since = bytes_, since
    return pace


def test_what_compression_would_not_shorten_is_not_tried(
    tmp_path: Path,
    disk: Path,
    exported: ExportedDisk,
    put: Put,
    reported: list[Progress],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = tmp_path / "noise.raw"
    image.write_bytes(os.urandom(32 * MIB))
    monkeypatch.setattr(deployment, "COMPARISON", Comparison(fast_enough=math.inf, least_seconds=0.0))
    monkeypatch.setattr(route.RouteChoice, "wire", lambda *_: pytest.fail("the other way was tried"))
    result = put(image, exported.address, upload_via=exported.upload_via, progress=reported.append)
    assert result.route is Route.NBD
    assert any("gains nothing" in progress.remark for progress in reported)


@pytest.mark.usefixtures("always")
def test_without_the_library_it_goes_over_nbd_and_says_what_to_install(
    image: Path, disk: Path, exported: ExportedDisk, put: Put, reported: list[Progress], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    result = put(image, exported.address, upload_via=exported.upload_via, progress=reported.append)
    assert result.route is Route.NBD
    assert any("cloudmanager[deploy]" in progress.remark for progress in reported)
    assert images.same(image, disk)


@pytest.mark.usefixtures("always")
def test_a_service_that_does_not_offer_it_is_written_to_over_nbd(
    image: Path, disk: Path, exported: ExportedDisk, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UploadEndpoint, "path", lambda _self, what: f"/v1/absent/{what}")
    result = put(image, exported.address, upload_via=exported.upload_via, verify=True)
    assert result.route is Route.NBD
    assert images.same(image, disk)


@pytest.mark.usefixtures("always")
def test_a_difference_is_found_by_checksums_of_the_service(
    image: Path, disk: Path, exported: ExportedDisk, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(reported: Progress) -> None:
        if reported.phase == "verifying":
            descriptor = os.open(disk, os.O_WRONLY)
            os.pwrite(descriptor, b"spoilt", 130 * MIB)
            os.close(descriptor)

    read = []
    digests = upload.ServiceLine.digests

    def noted(line: upload.ServiceLine, extent: Any) -> Any:
        read.append(extent)
        return digests(line, extent)

    monkeypatch.setattr(upload.ServiceLine, "digests", noted)
    with pytest.raises(DifferenceFound) as found:
        put(image, exported.address, upload_via=exported.upload_via, verify=True, progress=spoil)
    assert found.value.offset == 130 * MIB
    assert sum(extent.length for extent in read) > 64 * MIB


@pytest.mark.usefixtures("always")
def test_a_cancelled_run_goes_on_where_it_ended(
    image: Path, disk: Path, exported: ExportedDisk, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudmanager.client.deploy.journal.COMMIT_SECONDS", 0.0)
    cancelled = threading.Event()
    add = Ledger.finish

    def cancel_then(self: Ledger, unit: Unit, digests: bytes, content_bytes: int) -> None:
        add(self, unit, digests, content_bytes)
        if unit.index:
            cancelled.set()

    monkeypatch.setattr(Ledger, "finish", cancel_then)
    keywords = {"upload_via": exported.upload_via, "target_id": "the disk", "connections": 1}
    with pytest.raises(Cancelled):
        put(image, exported.address, cancelled=cancelled, **keywords)
    monkeypatch.setattr(Ledger, "finish", add)
    result = put(image, exported.address, verify=True, **keywords)
    assert result.resumed_bytes >= 64 * MIB
    assert images.same(image, disk)


def test_after_sigkill_only_what_is_missing_is_written(
    image: Path, disk: Path, service: api.Service, journals: Path, put: Put
) -> None:
    command = [sys.executable, "-c", KILLED, service.url, f"local:{disk.name}", str(image), str(journals)]
    killed = subprocess.run(command, check=False, timeout=100)
    assert killed.returncode == -signal.SIGKILL
    unfinished = ExportFilter(states=CLAIMING_STATES)
    for left in service.manager.list(unfinished).items:
        service.manager.release(left.id)
    eventually(lambda: not service.manager.list(unfinished).items, "the export of who was killed does not end")
    with CloudManager(service.url).export(f"local:{disk.name}", "read-write") as exported:
        result = put(image, exported.address, target_id="the disk", upload_via=exported.upload_via, verify=True)
    assert result.resumed_bytes >= 64 * MIB
    assert images.same(image, disk)


@pytest.mark.usefixtures("always")
def test_a_daemon_that_is_killed_and_started_again_is_waited_for(
    image: Path, tmp_path: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a request. qemu-nbd goes on; only the way through the service is gone for a while."""
    daemon = Daemon(tmp_path)
    disk = _empty(daemon.images / "disk.raw")
    sent = upload.ServiceLine.send
    restarting: list[threading.Thread] = []

    def restart() -> None:
        daemon.stop(signal.SIGKILL)
        daemon.started()

    def send(line: upload.ServiceLine, frame: Frame) -> None:
        sent(line, frame)
        if not restarting and frame.offset > 70 * MIB:
            restarting.append(threading.Thread(target=restart))
            restarting[0].start()

    monkeypatch.setattr(upload.ServiceLine, "send", send)
    try:
        daemon.started()
        with CloudManager(daemon.url).export("local:disk.raw", "read-write") as exported:
            result = put(image, exported.address, upload_via=exported.upload_via, verify=True)
            restarting[0].join()
    finally:
        daemon.end()
    assert images.same(image, disk)
    assert result.is_verified


@pytest.mark.parametrize(
    ("url", "uri", "is_allowed"),
    [
        ("http://10.0.0.1:8600", "nbd://10.0.0.1:10900/disk", True),
        ("http://10.0.0.1:8600", "nbds://10.0.0.1:10900/disk", False),
        ("http://target.example", "nbds://10.0.0.1:10900/disk", False),
        ("https://target.example", "nbds://10.0.0.1:10900/disk", True),
        ("http://127.0.0.1:8600", "nbds://127.0.0.1:10900/disk", True),
        ("http://localhost:8600", "nbds://127.0.0.1:10900/disk", True),
        ("unix:/run/cloudmanager.sock", "nbds://127.0.0.1:10900/disk", True),
    ],
)
def test_what_tls_hides_is_not_sent_in_the_clear(url: str, uri: str, is_allowed: bool) -> None:
    upload_via = UploadEndpoint(Service.of(url, None, environment={}), "id")
    assert upload_via.protects_as_well_as(NbdAddress(uri, Credentials("a", "b"))) is is_allowed


def test_random_data_is_not_compressed_in_vain() -> None:
    packer = Packer(1)
    frames = [packer.frame(0, memoryview(os.urandom(MIB))) for _ in range(8)]
    assert {frame.encoding for frame in frames} == {Encoding.RAW}
    assert packer._to_leave_out
    while packer._to_leave_out:
        packer.frame(0, memoryview(bytes(MIB)))
    assert packer.frame(0, memoryview(bytes(MIB))).encoding is Encoding.ZSTD
