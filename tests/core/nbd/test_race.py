"""Whoever exchanges files while an export starts, and queues at its listener, gets no byte of another file."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cloudmanager.core.errors import CloudManagerError, DeviceMismatch
from cloudmanager.core.model import Access
from cloudmanager.core.nbd import ServerSpec, images, served_files
from cloudmanager.core.records import new_export_name
from tests.confined.test_show import exchanging
from tests.core.nbd.client import Client
from tests.core.nbd.exporter import Exporter, MiB, device
from tests.core.nbd.test_death import killed

SANDBOXES = pytest.mark.parametrize("sandbox", ["bubblewrap", "none"])
RIGHT, SECRET = b"A" * 4096, b"S" * 4096


@contextmanager
def queued(port: int, name: str, answers: list[bytes]) -> Iterator[None]:
    """A client that is there before the server, and reads as soon as it is greeted."""
    client = Client(port, name)

    def read() -> None:
        try:
            client.go()
            answers.append(client.read(0, 4096))
        except (OSError, AssertionError):
            pass  # nothing was served
        finally:
            client.close()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        reader.join()


def race(exporter: Exporter, directory: Path, starts: int) -> tuple[set[bytes], int]:
    """What the clients were given, and how many exports were served."""
    image, link, secret = (directory / name for name in ("image", "link", "secret"))
    image.write_bytes(RIGHT * 16)
    secret.write_bytes(SECRET * 16)
    link.symlink_to(secret)
    disk = device(image)
    answers: list[bytes] = []
    served = 0
    with exchanging(image, link):
        for _ in range(starts):
            export_id, name = str(uuid.uuid4()), new_export_name()
            port = exporter.servers.reserve(export_id)
            try:
                with queued(port, name, answers):
                    try:
                        exporter.start(ServerSpec(export_id, name, port, Access.READ_WRITE, disk))
                        served += 1
                    except CloudManagerError:
                        exporter.servers.stop(export_id)
            finally:
                exporter.servers.stop(export_id)
    assert secret.read_bytes() == SECRET * 16
    return set(answers), served


@SANDBOXES
def test_a_race_for_an_image_serves_that_image_or_nothing(
    make_exporter: Callable[..., Exporter], tmp_path: Path, sandbox: str
) -> None:
    answers, served = race(make_exporter(sandbox=sandbox), tmp_path, 100)
    assert served
    assert answers == {RIGHT}


@pytest.mark.slow
@SANDBOXES
def test_a_long_race_for_an_image_serves_that_image_or_nothing(
    make_exporter: Callable[..., Exporter], tmp_path: Path, sandbox: str
) -> None:
    answers, _ = race(make_exporter(sandbox=sandbox), tmp_path, 1000)
    assert answers == {RIGHT}


@SANDBOXES
@pytest.mark.parametrize("is_replaced", [False, True], ids=["first", "replaced"])
def test_nobody_is_answered_before_the_open_files_are_proved(
    make_exporter: Callable[..., Exporter],
    raw: Path,
    sandbox: str,
    is_replaced: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither a client that waits on a listener from the first, nor one that a dead server has left in the queue."""
    exporter = make_exporter(sandbox=sandbox, engine="qemu-nbd")
    spec = ServerSpec(str(uuid.uuid4()), new_export_name(), 0, Access.READ_ONLY, device(raw))
    spec = replace(spec, port=exporter.servers.reserve(spec.export_id))
    if is_replaced:
        killed(exporter, exporter.start(spec))
    checked = served_files.check_open_files
    looks: list[int] = []

    def check(pid: int, *arguments: object) -> None:
        with socket.create_connection(("127.0.0.1", spec.port)) as late:
            for client in (early.socket, late):
                client.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    client.recv(1)
        looks.append(pid)
        checked(pid, *arguments)  # type: ignore[arg-type] # as it was called

    monkeypatch.setattr(served_files, "check_open_files", check)
    with Client(spec.port, spec.name) as early:
        served = exporter.start(spec)
        assert looks == [served.pid]
        early.socket.settimeout(20)
        early.go()
        assert early.read(0, 512) == raw.read_bytes()[:512]


@SANDBOXES
def test_who_waits_for_a_server_that_is_refused_gets_nothing(
    make_exporter: Callable[..., Exporter], raw: Path, sandbox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise DeviceMismatch("replaced")

    monkeypatch.setattr(served_files, "check_open_files", refuse)
    exporter = make_exporter(sandbox=sandbox, engine="qemu-nbd")
    spec = ServerSpec(str(uuid.uuid4()), new_export_name(), 0, Access.READ_ONLY, device(raw))
    spec = replace(spec, port=exporter.servers.reserve(spec.export_id))
    answers: list[bytes] = []
    with queued(spec.port, spec.name, answers):
        with pytest.raises(DeviceMismatch):
            exporter.start(spec)
        exporter.servers.stop(spec.export_id)
    assert answers == []


@SANDBOXES
@pytest.mark.parametrize("access", [Access.READ_ONLY, Access.SCRATCH])
def test_every_file_of_a_chain_is_the_one_that_was_opened(
    make_exporter: Callable[..., Exporter],
    tmp_path: Path,
    sandbox: str,
    access: Access,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is exchanged for another one between the moment when it is opened and the start of the server."""
    content = os.urandom(MiB)
    base, top = tmp_path / "base", tmp_path / "top"
    base.write_bytes(content)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top], check=True, capture_output=True
    )
    disk = device(top, "qcow2", size_bytes=MiB, backing=device(base))
    exporter = make_exporter(sandbox=sandbox)
    opened = images.open_images

    def open_and_lose(*arguments: object) -> tuple[images.OpenImage, ...]:
        held = opened(*arguments)  # type: ignore[arg-type] # as it was called
        for path in (base, top):
            path.rename(path.with_suffix(".away"))
            path.symlink_to("/etc/hostname")
        return held

    monkeypatch.setattr(images, "open_images", open_and_lose)
    with exporter.export(disk, access).connect() as client:
        assert client.read(0, MiB) == content
