"""A disk's bytes come out as they are, whatever holds them, and only the right ones are changed."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cloudmanager.core.errors import DiskInUse, ImageError, ServerFailed
from cloudmanager.core.model import Access, Device
from cloudmanager.core.nbd import ServerSpec
from cloudmanager.core.records import new_export_name
from tests.core.nbd.exporter import Exporter, MiB, device, read_back, status

SANDBOXES = pytest.mark.parametrize("sandbox", ["bubblewrap", "none"])
# QEMU writes all of these but dmg.
QEMU_FORMATS = ("qcow2", "vmdk", "vdi", "vpc", "vhdx", "parallels")


def converted(raw: Path, format_name: str, *options: str) -> Device:
    path = raw.with_suffix(f".{format_name}")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", format_name, *options, raw, path], check=True)
    return device(path, format_name, size_bytes=raw.stat().st_size)


@SANDBOXES
def test_a_raw_image_is_read_back_whole(make_exporter: Callable[..., Exporter], sandbox: str, raw: Path) -> None:
    served = make_exporter(sandbox=sandbox).export(device(raw))
    assert read_back(served.uri, raw.with_suffix(".copy")) == raw.read_bytes()


@SANDBOXES
@pytest.mark.parametrize("format_name", QEMU_FORMATS)
def test_every_container_format_is_read_back_whole(
    make_exporter: Callable[..., Exporter], sandbox: str, format_name: str, raw: Path
) -> None:
    options = ["-o", "force_size=on"] if format_name == "vpc" else []
    served = make_exporter(sandbox=sandbox).export(converted(raw, format_name, *options))
    assert read_back(served.uri, raw.with_suffix(".copy"))[: 4 * MiB] == raw.read_bytes()


def test_a_dmg_image_is_opened_as_such(exporter: Exporter, raw: Path) -> None:
    with pytest.raises(ServerFailed, match=r"koly|dmg|Could not open|trailer"):
        exporter.export(device(raw, "dmg"))


@SANDBOXES
@pytest.mark.parametrize("format_name", ["raw", "qcow2"])
@pytest.mark.parametrize("access", [Access.READ_ONLY, Access.READ_WRITE])
def test_of_a_disk_that_has_grown_only_what_clients_were_told_of_is_served(
    make_exporter: Callable[..., Exporter], sandbox: str, format_name: str, access: Access, raw: Path
) -> None:
    disk = device(raw) if format_name == "raw" else converted(raw, format_name)
    advertised_size_bytes = 4 * MiB
    subprocess.run(["qemu-img", "resize", "-q", "-f", format_name, disk.path, str(6 * MiB)], check=True)
    grown = replace(disk, size_bytes=6 * MiB)
    exporter = make_exporter(sandbox=sandbox)
    port = exporter.servers.reserve("grown")
    served = exporter.start(ServerSpec("grown", new_export_name(), port, access, grown, advertised_size_bytes))
    with served.connect() as client:
        assert client.size == advertised_size_bytes
        assert client.read(advertised_size_bytes - 512, 512) == random_end(raw)
        if access is Access.READ_WRITE:
            client.write(0, b"w" * 512)
            client.flush()
            assert client.read(0, 512) == b"w" * 512


def random_end(raw: Path) -> bytes:
    """The last sector of what the disk was."""
    return raw.read_bytes()[4 * MiB - 512 : 4 * MiB]


@pytest.mark.parametrize("advertised_size_bytes", [1000, 1024, 1025])
def test_a_size_between_two_sectors_is_kept_too(exporter: Exporter, tmp_path: Path, advertised_size_bytes: int) -> None:
    disk = tmp_path / "odd.raw"
    disk.write_bytes(b"o" * advertised_size_bytes)
    with exporter.export(device(disk)).connect() as client:
        size_before = client.size
    disk.write_bytes(b"o" * (advertised_size_bytes + 1))
    port = exporter.servers.reserve("odd")
    served = exporter.start(
        ServerSpec("odd", new_export_name(), port, Access.READ_ONLY, device(disk), advertised_size_bytes)
    )
    with served.connect() as client:
        assert client.size == size_before


def test_an_image_is_never_probed(exporter: Exporter, raw: Path) -> None:
    """What was decided to be raw is served raw, though it is a qcow2 file."""
    image = converted(raw, "qcow2")
    served = exporter.export(device(Path(image.path), "raw"))
    with served.connect() as client:
        assert client.read(0, 4) == b"QFI\xfb"


@SANDBOXES
def test_a_backing_chain_is_read_through(make_exporter: Callable[..., Exporter], sandbox: str, raw: Path) -> None:
    base = converted(raw, "qcow2")
    middle, top = raw.with_name("middle.qcow2"), raw.with_name("top.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base.path, "-F", "qcow2", middle], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", middle, "-F", "qcow2", top], check=True)
    subprocess.run(["qemu-io", "-c", "write -P 7 65536 65536", top], check=True, capture_output=True)
    size = 4 * MiB
    chain = device(top, "qcow2", size_bytes=size, backing=device(middle, "qcow2", size_bytes=size, backing=base))
    expected = bytearray(raw.read_bytes())
    expected[65536:131072] = b"\7" * 65536
    served = make_exporter(sandbox=sandbox).export(chain)
    assert read_back(served.uri, raw.with_suffix(".copy")) == expected


def test_a_backing_file_that_was_not_allowed_is_not_opened(exporter: Exporter, raw: Path) -> None:
    top = raw.with_name("top.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", raw, "-F", "raw", top], check=True)
    served = exporter.export(device(top, "qcow2", size_bytes=4 * MiB))
    with served.connect() as client:
        assert client.read(0, MiB) == bytes(MiB)


def test_read_only_refuses_writes(exporter: Exporter, raw: Path) -> None:
    before = raw.read_bytes()
    with exporter.export(device(raw)).connect() as client:
        assert client.flags & 0b10
        with pytest.raises(OSError, match=r"not permitted|Invalid argument"):  # by QEMU's version
            client.write(0, b"x" * 512)
    assert raw.read_bytes() == before


@SANDBOXES
def test_read_write_changes_the_image(make_exporter: Callable[..., Exporter], sandbox: str, raw: Path) -> None:
    with make_exporter(sandbox=sandbox).export(device(raw), Access.READ_WRITE).connect() as client:
        client.write(MiB, b"written" * 100)
        client.flush()
    assert raw.read_bytes()[MiB : MiB + 700] == b"written" * 100


def test_a_trim_and_a_write_of_zeroes_give_space_back(exporter: Exporter, raw: Path) -> None:
    with exporter.export(device(raw), Access.READ_WRITE).connect() as client:
        client.trim(0, MiB)
        client.write(MiB, bytes(MiB))
        client.flush()
    assert raw.stat().st_blocks * 512 <= 2 * MiB + 64 * 1024


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
@SANDBOXES
@pytest.mark.parametrize("access", [Access.READ_ONLY, Access.READ_WRITE])
def test_a_private_image_of_another_user_is_served(
    make_exporter: Callable[..., Exporter], sandbox: str, access: Access, raw: Path
) -> None:
    raw.chmod(0o600)
    os.chown(raw, 12345, 12345)
    with make_exporter(sandbox=sandbox).export(device(raw), access).connect() as client:
        assert client.read(0, 512) == raw.read_bytes()[:512]


def test_changing_bytes_bypass_the_page_cache(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw, is_stable=False))
    assert open_flags(served.pid, raw) & os.O_DIRECT


def test_unchanging_bytes_use_the_page_cache(make_exporter: Callable[..., Exporter], raw: Path) -> None:
    served = make_exporter(engine="qemu-nbd").export(device(raw))
    assert not open_flags(served.pid, raw) & os.O_DIRECT


def test_a_file_system_without_o_direct_is_served_and_said(
    exporter: Exporter, raw: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The test's kernel may have O_DIRECT everywhere, so the open that asks for it is made to fail."""
    real_open = os.open

    def without_direct(path: str, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no O_DIRECT")
        return real_open(path, flags, *rest)

    monkeypatch.setattr(os, "open", without_direct)
    served = exporter.export(device(raw), Access.READ_WRITE)
    assert not open_flags(served.pid, raw) & os.O_DIRECT
    assert "O_DIRECT" in caplog.text


def test_a_format_that_qemu_cannot_read_is_refused(exporter: Exporter, raw: Path) -> None:
    with pytest.raises(ImageError, match="'zip' cannot be served; these can: dmg, parallels"):
        exporter.export(device(raw, "zip"))


@SANDBOXES
def test_qemus_own_words_are_told_with_the_path_that_the_user_knows(
    make_exporter: Callable[..., Exporter], sandbox: str, raw: Path
) -> None:
    with pytest.raises(ServerFailed, match="not in qcow2 format") as caught:
        make_exporter(sandbox=sandbox).export(device(raw, "qcow2"))
    assert str(raw) in caught.value.detail
    assert not caught.value.retriable
    assert not any(word in caught.value.detail for word in ("/image-", "/proc/self", "json:", "blk_new_open"))


def test_an_image_that_another_program_writes_is_in_use(exporter: Exporter, raw: Path) -> None:
    image = converted(raw, "qcow2")
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", image.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdin
        assert writer.stdout
        writer.stdin.write("write 0 512\n")
        writer.stdin.flush()
        assert "wrote" in writer.stdout.readline()
        with pytest.raises(DiskInUse, match="being written by another program"):
            exporter.export(image)


def test_names_cannot_be_guessed() -> None:
    names = {new_export_name() for _ in range(1000)}
    assert len(names) == 1000
    assert all(len(bytes.fromhex(name)) == 16 for name in names)


def test_the_wrong_name_is_refused(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    asked = subprocess.run(["nbdinfo", f"nbd://127.0.0.1:{served.port}/"], capture_output=True, check=False)
    assert asked.returncode != 0


def test_starting_again_what_is_served_changes_nothing(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    assert exporter.start(served.spec).process == served.process


def test_signals_of_the_terminal_do_not_reach_a_server(exporter: Exporter, raw: Path) -> None:
    assert os.getsid(exporter.export(device(raw)).pid) != os.getsid(0)


def open_flags(pid: int, path: Path) -> int:
    """With which a process has a file open."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if entry.exists() and entry.stat().st_ino == path.stat().st_ino:
            text = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text()
            return int(next(line.split()[1] for line in text.splitlines() if line.startswith("flags:")), 8)
    raise AssertionError(f"{path} is not open in {status(pid, 'Name')}")
