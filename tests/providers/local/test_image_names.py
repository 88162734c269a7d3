"""Which file a name means, and which names mean none."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from cloudmanager.core.errors import AmbiguousDisk, CloudManagerError, DeviceError, DiskNotFound, InvalidDiskId
from cloudmanager.core.model import FileIdentity
from cloudmanager.providers.local import LocalProvider
from cloudmanager.providers.local.settings import LocalSettings
from tests.providers.local.conftest import MiB, disk_id, found


def test_a_path_below_the_directory(provider: LocalProvider, directory: Path) -> None:
    (directory / "case7").mkdir()
    path = directory / "case7" / "disk.raw"
    path.write_bytes(b"x" * 1024)
    device = provider.locate(provider.describe(disk_id("case7/disk.raw")))
    assert device.path == str(path)
    assert device.size_bytes == 1024
    assert device.identity == FileIdentity(path.stat().st_dev, path.stat().st_ino)
    assert not device.is_block


def test_the_absolute_path(provider: LocalProvider, raw: Path) -> None:
    assert provider.describe(disk_id(raw)).canonical_id == provider.describe(disk_id(raw.name)).canonical_id


def test_a_name_that_two_directories_have_is_refused_and_their_paths_are_told(tmp_path: Path) -> None:
    directories = tuple(tmp_path / name for name in ("first", "second"))
    for number, directory in enumerate(directories, 1):
        directory.mkdir()
        (directory / "a.raw").write_bytes(b"x" * 512 * number)
    provider = LocalProvider("local", LocalSettings(images=directories))
    with pytest.raises(AmbiguousDisk) as caught:
        provider.describe(disk_id("a.raw"))
    for number, directory in enumerate(directories, 1):
        assert f"local:{directory / 'a.raw'}" in caught.value.detail
        assert provider.describe(disk_id(directory / "a.raw")).size_bytes == 512 * number
    listed = found(provider)
    assert sorted(listed) == sorted(str(directory / "a.raw") for directory in directories)
    assert all(provider.describe(disk_id(native)) == disk for native, disk in listed.items())


def test_the_same_file_in_two_directories_is_not_ambiguous(tmp_path: Path, raw: Path, directory: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / raw.name).hardlink_to(raw)
    provider = LocalProvider("local", LocalSettings(images=(directory, other)))
    assert provider.describe(disk_id(raw.name)).description == ""


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "/etc/passwd", "..", ".", "/"])
def test_names_that_lead_out_are_refused(name: str, provider: LocalProvider, directory: Path) -> None:
    (directory.parent / "secret").write_bytes(b"x" * 512)
    with pytest.raises(InvalidDiskId):
        provider.describe(disk_id(name))


def test_a_link_that_leads_out_is_refused(provider: LocalProvider, directory: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x" * 512)
    (directory / "web01.raw").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidDiskId, match="leads out"):
        provider.describe(disk_id("web01.raw"))


def test_a_linked_directory_that_leads_out_is_refused(provider: LocalProvider, directory: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "disk.raw").write_bytes(b"x" * 512)
    (directory / "case7").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidDiskId, match="leads out"):
        provider.describe(disk_id("case7/disk.raw"))


def test_a_link_inside_is_the_file_itself(provider: LocalProvider, raw: Path, directory: Path) -> None:
    (directory / "latest.raw").symlink_to(raw.name)
    disk = provider.describe(disk_id("latest.raw"))
    assert disk.canonical_id == provider.describe(disk_id(raw.name)).canonical_id
    assert provider.locate(disk).path == str(raw)


def test_a_directory_may_itself_be_a_link(tmp_path: Path, directory: Path, raw: Path) -> None:
    (tmp_path / "link").symlink_to(directory)
    provider = LocalProvider("local", LocalSettings(images=(tmp_path / "link",)))
    for name in (raw.name, raw, tmp_path / "link" / raw.name):
        assert provider.locate(provider.describe(disk_id(name))).path == str(raw)


def test_a_named_pipe_is_refused_without_waiting_for_its_writer(provider: LocalProvider, directory: Path) -> None:
    os.mkfifo(directory / "pipe.raw")
    with pytest.raises(InvalidDiskId, match="named pipe"):
        provider.describe(disk_id("pipe.raw"))


def test_a_socket_is_refused(provider: LocalProvider, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock.raw")
        with pytest.raises(InvalidDiskId, match="socket"):
            provider.describe(disk_id("sock.raw"))


@pytest.mark.parametrize(
    ("kind", "number", "says"),
    [(stat.S_IFCHR, os.makedev(1, 5), "character device"), (stat.S_IFBLK, os.makedev(7, 0), "block device")],
)
def test_a_device_node_among_the_images_is_refused(
    kind: int, number: int, says: str, provider: LocalProvider, directory: Path
) -> None:
    os.mknod(directory / "node.raw", kind | 0o600, number)
    with pytest.raises(InvalidDiskId, match=says):
        provider.describe(disk_id("node.raw"))


def test_a_directory_is_refused(provider: LocalProvider, directory: Path) -> None:
    (directory / "case7").mkdir()
    with pytest.raises(InvalidDiskId, match="a directory"):
        provider.describe(disk_id("case7"))


@pytest.mark.parametrize("name", ["nothing.raw", "web01.raw/inside", "/no/such", "x" * 300])
def test_what_is_not_there_is_not_found(name: str, provider: LocalProvider, raw: Path, directory: Path) -> None:
    with pytest.raises(DiskNotFound):
        provider.describe(disk_id(directory / name.lstrip("/") if name.startswith("/") else name))


@pytest.mark.parametrize("name", ["x" * 300, "loop.raw"])
def test_absolute_paths_that_cannot_be_are_invalid(name: str, provider: LocalProvider, directory: Path) -> None:
    (directory / "loop.raw").symlink_to("loop.raw")
    with pytest.raises(InvalidDiskId):
        provider.describe(disk_id(directory / name))


def test_without_directories_every_name_is_told_so() -> None:
    with pytest.raises(DiskNotFound, match="none is configured"):
        LocalProvider("local", LocalSettings()).describe(disk_id("web01.raw"))


def _as_nobody(action: Callable[[], object]) -> str:
    """What an action raises in a process without privileges."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        answer = "nothing raised"
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            action()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, "rb") as pipe:  # noqa: PTH123 - a descriptor
        return pipe.read().decode()


def _open_to_all(path: Path) -> None:
    for parent in path.parents:
        if parent.name.startswith(("pytest", "popen", "test", "images")):
            parent.chmod(0o755)


def test_a_file_without_permission_says_who_lacks_it(provider: LocalProvider, raw: Path) -> None:
    _open_to_all(raw)
    raw.chmod(0o600)
    provider.describe(disk_id(raw.name))
    answer = _as_nobody(lambda: provider.describe(disk_id(raw.name)))
    assert answer.startswith(DeviceError.__name__)
    assert "65534" in answer


def test_exchanging_a_link_meanwhile_never_yields_what_is_outside(
    provider: LocalProvider, raw: Path, directory: Path, tmp_path: Path
) -> None:
    """The size tells which file was read: the secret one has another."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 512)
    stop = threading.Event()

    def exchange() -> None:
        targets = [secret, raw]
        while not stop.is_set():
            targets.reverse()
            (directory / "next").symlink_to(targets[0])
            (directory / "next").replace(directory / "web.raw")

    (directory / "web.raw").symlink_to(raw)
    thread = threading.Thread(target=exchange)
    thread.start()
    sizes = set()
    refusals = 0
    try:
        for _attempt in range(400):
            try:
                sizes.add(provider.describe(disk_id("web.raw")).size_bytes)
            except InvalidDiskId:
                refusals += 1
    finally:
        stop.set()
        thread.join()
    assert sizes == {MiB}
    assert refusals


def test_odd_names_raise_typed_errors_only(provider: LocalProvider, raw: Path) -> None:
    for name in ("", " ", "*", "\\", "a//b", "web01.raw/.", "~", "-", "%2e%2e/x", "\u202e", "web01.raw/../web01.raw"):
        with suppress(CloudManagerError):
            provider.describe(disk_id(name))
