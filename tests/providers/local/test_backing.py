"""Backing chains: refused, or resolved in full from allowed directories."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloudmanager.core.errors import CorruptImage, DiskReplaced, ImageError, UnsafeImage
from cloudmanager.core.model import Device
from cloudmanager.providers.local import LocalProvider, file_id
from cloudmanager.providers.local.backing import MAX_LAYERS
from cloudmanager.providers.local.settings import LocalSettings
from tests.providers.local.conftest import MiB, disk_id, qemu_img


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base" / "base.raw"
    path.parent.mkdir()
    path.write_bytes(b"b" * MiB)
    return path


@pytest.fixture
def allowing(directory: Path, base: Path) -> LocalProvider:
    settings = LocalSettings(images=(directory,), allow_backing_from=(base.parent, directory))
    return LocalProvider("local", settings)


def overlay(path: Path, backing: str | Path, format_name: str = "raw") -> Path:
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", format_name, path, "1M")
    return path


def layers(device: Device | None) -> list[tuple[str, str]]:
    return [(device.path, device.format), *layers(device.backing)] if device else []


def test_a_backing_file_is_refused_by_default(provider: LocalProvider, directory: Path, base: Path) -> None:
    overlay(directory / "top.qcow2", base)
    with pytest.raises(UnsafeImage, match="allow_backing_from"):
        provider.describe(disk_id("top.qcow2"))


def test_an_allowed_chain_is_resolved_in_full(allowing: LocalProvider, directory: Path, base: Path) -> None:
    middle = overlay(directory / "middle.qcow2", base)
    top = overlay(directory / "top.qcow2", "middle.qcow2", "qcow2")
    disk = allowing.describe(disk_id("top.qcow2"))
    device = allowing.locate(disk)
    assert layers(device) == [(str(top), "qcow2"), (str(middle), "qcow2"), (str(base), "raw")]
    assert disk.backing[0] == allowing.describe(disk_id("middle.qcow2")).canonical_id
    assert len(disk.backing) == 2


def test_a_base_with_the_inode_of_an_earlier_one_is_another(
    allowing: LocalProvider, directory: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file system does not count generations, as overlayfs does not, the time of birth tells."""
    monkeypatch.setattr(file_id, "_generation", lambda _: 0)
    overlay(directory / "top.qcow2", base)
    for _attempt in range(50):
        disk, inode = allowing.describe(disk_id("top.qcow2")), base.stat().st_ino
        assert allowing.locate(disk).incarnation == disk.incarnation
        base.unlink()
        base.write_bytes(b"n" * MiB)
        if base.stat().st_ino == inode:
            with pytest.raises(DiskReplaced, match="other files"):
                allowing.locate(disk)
            assert allowing.describe(disk_id("top.qcow2")).canonical_id == disk.canonical_id
            return
    pytest.skip("this file system does not reuse inode numbers soon")


def test_each_layers_identity_is_its_own(allowing: LocalProvider, directory: Path, base: Path) -> None:
    overlay(directory / "top.qcow2", base)
    device = allowing.locate(allowing.describe(disk_id("top.qcow2")))
    assert device.backing is not None
    assert device.backing.identity.inode == base.stat().st_ino


def test_a_vmdk_parent_can_be_allowed(allowing: LocalProvider, directory: Path, base: Path) -> None:
    parent = base.with_name("parent.vmdk")
    qemu_img("convert", "-f", "raw", "-O", "vmdk", base, parent)
    qemu_img("create", "-q", "-f", "vmdk", "-b", parent, "-F", "vmdk", directory / "top.vmdk")
    device = allowing.locate(allowing.describe(disk_id("top.vmdk")))
    assert layers(device)[1] == (str(parent), "vmdk")


def test_the_headers_word_on_the_format_is_not_believed(allowing: LocalProvider, directory: Path, base: Path) -> None:
    overlay(base.with_name("inner.qcow2"), base)
    overlay(directory / "top.qcow2", base.with_name("inner.qcow2"), "raw")
    device = allowing.locate(allowing.describe(disk_id("top.qcow2")))
    assert [layer[1] for layer in layers(device)] == ["qcow2", "qcow2", "raw"]


def test_a_layer_outside_the_allowed_directories_is_refused(
    allowing: LocalProvider, directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"s" * MiB)
    overlay(directory / "top.qcow2", tmp_path / "secret")
    with pytest.raises(UnsafeImage, match="allow_backing_from"):
        allowing.describe(disk_id("top.qcow2"))


def test_a_layer_below_an_allowed_one_is_checked_too(allowing: LocalProvider, directory: Path, base: Path) -> None:
    overlay(base.with_name("inner.qcow2"), "/etc/passwd")
    overlay(directory / "top.qcow2", base.with_name("inner.qcow2"), "qcow2")
    with pytest.raises(UnsafeImage):
        allowing.describe(disk_id("top.qcow2"))


def test_a_link_or_dots_do_not_lead_out(allowing: LocalProvider, directory: Path, base: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s" * MiB)
    base.with_name("link").symlink_to(tmp_path / "secret")
    for number, name in enumerate([base.with_name("link"), base.parent / ".." / "secret"]):
        overlay(directory / f"{number}.qcow2", name)
        with pytest.raises(UnsafeImage, match="leads out"):
            allowing.describe(disk_id(f"{number}.qcow2"))


def test_dots_that_stay_inside_are_fine(allowing: LocalProvider, directory: Path, base: Path) -> None:
    overlay(directory / "top.qcow2", "../base/base.raw")
    assert allowing.locate(allowing.describe(disk_id("top.qcow2"))).backing is not None


@pytest.mark.parametrize(
    "name", ["http://127.0.0.1/x", "nbd:localhost:10809", "file:base.raw", 'json:{"driver":"null-co"}']
)
def test_urls_are_refused_even_so(name: str, allowing: LocalProvider, directory: Path) -> None:
    overlay(directory / "top.qcow2", name)
    with pytest.raises(UnsafeImage, match="no plain file"):
        allowing.describe(disk_id("top.qcow2"))


def test_a_data_file_is_refused_even_so(allowing: LocalProvider, directory: Path) -> None:
    data = directory / "data.raw"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={data}", directory / "top.qcow2", "1M")
    with pytest.raises(UnsafeImage):
        allowing.describe(disk_id("top.qcow2"))


def test_a_missing_layer_is_named(allowing: LocalProvider, directory: Path, base: Path) -> None:
    overlay(directory / "top.qcow2", base)
    base.unlink()
    with pytest.raises(ImageError, match=r"base\.raw does not exist"):
        allowing.describe(disk_id("top.qcow2"))


def test_a_damaged_layer_is_named(allowing: LocalProvider, directory: Path, base: Path) -> None:
    base.write_bytes(b"QFI\xfb" + b"\xff" * 1000)
    overlay(directory / "top.qcow2", base)
    with pytest.raises(ImageError, match=r"base\.raw: "):
        allowing.describe(disk_id("top.qcow2"))


def test_a_pipe_as_a_layer_does_not_block(allowing: LocalProvider, directory: Path, base: Path) -> None:
    os.mkfifo(base.with_name("pipe"))
    overlay(directory / "top.qcow2", base.with_name("pipe"))
    with pytest.raises(UnsafeImage, match="named pipe"):
        allowing.describe(disk_id("top.qcow2"))


def test_a_chain_that_comes_back_is_refused(allowing: LocalProvider, directory: Path) -> None:
    overlay(directory / "a.qcow2", "b.qcow2", "qcow2")
    overlay(directory / "b.qcow2", "a.qcow2", "qcow2")
    with pytest.raises(UnsafeImage, match="through itself"):
        allowing.describe(disk_id("a.qcow2"))


def test_an_endless_chain_is_refused(allowing: LocalProvider, directory: Path, base: Path) -> None:
    overlay(directory / "0.qcow2", base)
    for number in range(1, MAX_LAYERS):
        overlay(directory / f"{number}.qcow2", f"{number - 1}.qcow2", "qcow2")
    assert allowing.describe(disk_id(f"{MAX_LAYERS - 2}.qcow2"))
    with pytest.raises(UnsafeImage, match="layers"):
        allowing.describe(disk_id(f"{MAX_LAYERS - 1}.qcow2"))


def test_a_base_that_was_exchanged_is_seen_when_it_is_located_again(
    allowing: LocalProvider, directory: Path, base: Path
) -> None:
    overlay(directory / "top.qcow2", base)
    disk = allowing.describe(disk_id("top.qcow2"))
    base.write_bytes(b"QFI\xfb" + bytes(1000))
    with pytest.raises((CorruptImage, ImageError)):
        allowing.locate(disk)
