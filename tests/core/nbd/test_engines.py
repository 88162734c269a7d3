"""What an export promises whichever program serves it, and what only one of them does."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cloudmanager.core.errors import ServerFailed
from cloudmanager.core.fingerprint import has_open, serves_a_device
from cloudmanager.core.model import Access, Device
from cloudmanager.core.nbd import ServerSpec, process
from cloudmanager.core.nbd.transfer import LocalAddress
from cloudmanager.core.records import new_export_name
from cloudmanager.transfer.buffers import Buffer
from cloudmanager.transfer.libnbd import Connection, LibnbdFailure, Timeouts
from tests.bad_sector import damaged
from tests.core.nbd.client import Client
from tests.core.nbd.exporter import ENGINES, Exporter, MiB, Served, connected, device, read_back
from tests.loop_devices import attached, detach
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(not shutil.which("nbdkit"), reason="needs nbdkit")
MakeExporter = Callable[..., Exporter]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def serving(make_exporter: MakeExporter, engine: str) -> Exporter:
    return make_exporter(engine=engine)


def stable(path: Path, **changes: Any) -> Device:
    """Nobody changes it: the page cache is used."""
    return device(path, is_stable=True, **changes)


def program(served: Served) -> str:
    return Path(process.command_line(served.pid)[0]).name


def test_it_serves_a_disk(serving: Exporter, engine: str, raw: Path, tmp_path: Path) -> None:
    served = serving.export(stable(raw))
    assert program(served) == engine
    assert read_back(served.uri, tmp_path / "copy") == raw.read_bytes()


def test_it_serves_a_block_device(serving: Exporter, engine: str, loop: Path, raw: Path, tmp_path: Path) -> None:
    served = serving.export(stable(loop))
    assert program(served) == engine
    assert read_back(served.uri, tmp_path / "copy") == raw.read_bytes()
    assert serves_a_device(served.pid)


def test_it_answers_to_the_exports_name_only_and_nbdkit_does_not_tell_it(serving: Exporter, raw: Path) -> None:
    served = serving.export(stable(raw))
    for wrong in ("", "another", served.spec.name[:-1]):
        with pytest.raises((ConnectionError, struct.error)):
            Client.greeted(served.port, wrong)
    listed = subprocess.run(
        ["nbdinfo", "--list", f"nbd://127.0.0.1:{served.port}"], capture_output=True, text=True, check=False
    )
    assert (served.spec.name in listed.stdout) == (program(served) == "qemu-nbd")


def test_it_cannot_be_written_to(serving: Exporter, raw: Path) -> None:
    before = raw.read_bytes()
    with serving.export(stable(raw)).connect() as client:
        with pytest.raises(OSError, match=r"ermitted|ermission|nvalid"):
            client.write(0, b"x" * 512)
    assert raw.read_bytes() == before


def test_its_open_files_are_known(serving: Exporter, raw: Path, tmp_path: Path) -> None:
    served = serving.export(stable(raw))
    other = tmp_path / "other"
    other.write_bytes(bytes(MiB))
    assert has_open(served.pid, stable(raw))
    assert not has_open(served.pid, stable(other))
    assert not serves_a_device(served.pid)


@pytest.mark.parametrize("is_recorded", [True, False])
def test_the_next_daemon_takes_it_over(serving: Exporter, raw: Path, tmp_path: Path, is_recorded: bool) -> None:
    served = serving.export(stable(raw))
    with served.connect() as client:
        later = serving.succeeded()
        try:
            assert later.adopt(served, served.process if is_recorded else None) == served.process
            assert later.servers.client_count(served.id) == 1
            assert client.read(0, 512) == raw.read_bytes()[:512]
            assert later.start(served.spec).pid == served.pid
            later.servers.refuse_clients(served.id)
            with pytest.raises(ConnectionRefusedError):
                served.queue_up()
        finally:
            later.stop_all()


def test_a_disk_that_has_grown_keeps_its_size(serving: Exporter, engine: str, raw: Path) -> None:
    served = serving.export(stable(raw))
    os.truncate(raw, 8 * MiB)
    with served.connect() as client:
        assert client.size == 4 * MiB
    serving.servers.halt(served.id)
    again = serving.start(ServerSpec(served.id, served.spec.name, served.port, Access.READ_ONLY, stable(raw), 4 * MiB))
    assert program(again) == engine
    with again.connect() as client:
        assert client.size == 4 * MiB
        with pytest.raises(OSError, match=r"nvalid|space"):
            client.read(4 * MiB, 512)


def test_it_ends_soon_though_clients_are_connected(serving: Exporter, raw: Path) -> None:
    served = serving.export(stable(raw))
    with served.connect() as client:
        began = time.monotonic()
        serving.stop_each()
        assert time.monotonic() - began < 8
        assert client.is_cut()


def test_a_server_that_died_is_replaced_on_its_address(serving: Exporter, raw: Path) -> None:
    served = serving.export(stable(raw))
    process_of = serving.servers.pid(served.id)
    assert process_of
    os.kill(process_of, 9)
    assert serving.exited() == served.id
    again = serving.start(served.spec)
    assert again.pid != served.pid
    with again.connect() as client:
        assert client.read(0, 512) == raw.read_bytes()[:512]


# nbdkit's own


@pytest.fixture
def bad(raw: Path, tmp_path: Path) -> Iterator[Path]:
    with damaged(raw, tmp_path, 2 * MiB, 4096) as disk:
        yield disk


@pytest.mark.skipif(not shutil.which("nbdfuse"), reason="needs nbdfuse")
def test_with_nbdkit_a_bad_sector_is_an_error_for_every_client(
    bad: Path, make_exporter: MakeExporter, raw: Path
) -> None:
    served = make_exporter().export(stable(bad))
    assert program(served) == "nbdkit"
    with Connection(LocalAddress(served.uri, None), Timeouts()) as connection:
        connection._read_flags = 0  # as other programs built on libnbd ask
        buffer = Buffer()
        for _ in range(2):
            with pytest.raises(LibnbdFailure) as caught:
                connection.wait(connection.start_read(buffer.address, 65536, 2 * MiB))
            assert caught.value.errno == errno.EIO
            connection.wait(connection.start_read(buffer.address, 65536, MiB))
            assert bytes(buffer.view[:65536]) == raw.read_bytes()[MiB : MiB + 65536]


def test_with_nbdkit_a_client_beyond_the_limit_is_turned_away_until_there_is_a_place(
    make_exporter: MakeExporter, raw: Path
) -> None:
    places = 3
    served = make_exporter(engine="nbdkit", connections=places).export(stable(raw))

    def is_served() -> bool:
        try:
            with served.connect() as client:
                return len(client.read(0, 512)) == 512
        except (ConnectionError, struct.error):
            return False

    eventually(is_served)  # our own handshake may still hold a place
    with ExitStack() as stack:
        client, *_ = [stack.enter_context(connected(served)) for _ in range(places)]
        assert not is_served()
        assert len(client.read(0, 512)) == 512
    eventually(is_served)


def test_where_there_is_one_place_the_next_client_waits(make_exporter: MakeExporter, raw: Path, engine: str) -> None:
    served = make_exporter(engine=engine, connections=1).export(stable(raw))
    with served.connect() as client, served.queue_up() as second:
        second.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            second.go()
        assert len(client.read(0, 512)) == 512
    with served.queue_up() as third:
        third.go()
        assert len(third.read(0, 512)) == 512


@pytest.mark.parametrize("connections", [1, 40])
def test_a_server_is_ready_though_clients_that_waited_for_it_have_all_places(
    make_exporter: MakeExporter, raw: Path, engine: str, connections: int
) -> None:
    exporter = make_exporter(engine=engine, connections=connections)
    export_id, name = str(uuid.uuid4()), new_export_name()
    port = exporter.servers.reserve(export_id)
    with ExitStack() as stack:
        for _ in range(connections):
            stack.enter_context(Client(port, name))
        served = exporter.start(ServerSpec(export_id, name, port, Access.READ_ONLY, stable(raw)))
        later = exporter.succeeded()
        try:
            later.adopt(served, None)
            assert later.start(served.spec).pid == served.pid
        finally:
            later.stop_all()


def test_a_device_that_is_detached_by_hand_does_not_give_its_number_away(
    serving: Exporter, engine: str, raw: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"S" * 4 * MiB)
    loop = attached(raw)
    served = serving.export(stable(loop))
    assert program(served) == engine
    with served.connect() as client:
        assert client.read(0, 512) == raw.read_bytes()[:512]
    detach(loop)  # it goes when nobody has it open
    assert subprocess.run(["losetup", loop, other], capture_output=True, check=False).returncode != 0
    with served.connect() as client:
        assert client.read(0, 512) == raw.read_bytes()[:512]


def test_nbdkit_is_chosen_where_it_is_installed(
    make_exporter: MakeExporter, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = make_exporter()
    assert program(exporter.export(stable(raw))) == "nbdkit"
    for name in ("qemu-nbd", "bwrap"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program(exporter.export(stable(raw))) == "qemu-nbd"
    exporter.stop_all()
    with pytest.raises(ServerFailed, match="install the package nbdkit"):
        make_exporter(engine="nbdkit").export(stable(raw))


@pytest.mark.parametrize(
    ("access", "changes", "settings"),
    [
        (Access.SCRATCH, {}, {}),
        (Access.READ_WRITE, {}, {}),
        (Access.READ_ONLY, {"is_stable": False}, {}),
        (Access.READ_ONLY, {}, {"sandbox": "none"}),
        (Access.READ_ONLY, {}, {"engine": "auto", "connections": 31}),
        (Access.READ_ONLY, {}, {"memory_limit_bytes": 2**28}),
        (Access.READ_ONLY, {}, {"engine": "qemu-nbd"}),
    ],
)
def test_what_nbdkit_cannot_keep_the_promises_of_is_qemu_nbds(
    make_exporter: MakeExporter, raw: Path, access: Access, changes: dict[str, Any], settings: dict[str, object]
) -> None:
    served = make_exporter(**{"engine": "nbdkit", **settings}).export(
        device(raw, **{"is_stable": True, **changes}), access
    )
    assert program(served) == "qemu-nbd"


def test_a_container_and_half_a_sector_are_qemu_nbds(make_exporter: MakeExporter, raw: Path, tmp_path: Path) -> None:
    exporter = make_exporter(engine="nbdkit")
    image = tmp_path / "image.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image], check=True)
    assert program(exporter.export(device(image, "qcow2", size_bytes=4 * MiB, is_stable=True))) == "qemu-nbd"
    odd = tmp_path / "odd"
    odd.write_bytes(bytes(1000))
    assert program(exporter.export(stable(odd))) == "qemu-nbd"
