"""No image may make QEMU open another file. That each attack would work is shown first."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudmanager.images import ImageProblem, UnsafeImage, inspect
from tests.images.conftest import qemu_img

SECRET = b"TOPSECRETTOSTEAL" * 65536


@pytest.fixture(params=["second opinion", "by itself"], autouse=True)
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client may not have oslo.utils: what it would refuse is refused without it."""
    if request.param == "by itself":
        for name in ("oslo_utils", "oslo_utils.imageutils"):
            monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    return path


def leaks(path: Path, format_name: str) -> bool:
    """Whether QEMU, told the format, shows the secret."""
    command = ["qemu-io", "-r", "-f", format_name, "-c", "read -v 0 512", str(path)]
    return "TOPSECRET" in subprocess.run(command, check=False, capture_output=True, text=True).stdout


def refused(path: Path) -> bool:
    with path.open("rb") as file, pytest.raises(UnsafeImage):
        inspect(file)
    return True


def test_qcow2_backing_file(secret: Path, tmp_path: Path) -> None:
    path = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", path)
    assert leaks(path, "qcow2")
    assert refused(path)


def test_qcow2_backing_file_with_extended_l2(secret: Path, tmp_path: Path) -> None:
    path = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "extended_l2=on", "-b", secret, "-F", "raw", path)
    assert leaks(path, "qcow2")
    assert refused(path)


@pytest.mark.parametrize("name", ["http://169.254.169.254/latest", 'json:{"driver":"file","filename":"/etc/shadow"}'])
def test_qcow2_backing_url(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "raw", path, "1M")
    assert refused(path)


def test_qcow2_data_file(secret: Path, tmp_path: Path) -> None:
    path = tmp_path / "image"
    content = secret.read_bytes()
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={secret},data_file_raw=on", path, "1M")
    secret.write_bytes(content)  # qemu-img made it anew
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 84 0 64k", path], check=True, capture_output=True)
    secret.write_bytes(content)
    assert leaks(path, "qcow2")
    assert refused(path)


def test_a_data_file_stays_refused_where_backing_files_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", path, "1M")
    with path.open("rb") as file, pytest.raises(UnsafeImage):
        inspect(file, allow_backing=True)


@pytest.mark.parametrize("subformat", ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_vmdk_descriptors(subformat: str, secret: Path, tmp_path: Path) -> None:
    path = tmp_path / "image.vmdk"
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={subformat}", secret, path)
    assert leaks(path, "vmdk")
    assert refused(path)


def test_vmdk_descriptor_with_a_flat_extent(secret: Path, tmp_path: Path) -> None:
    path = tmp_path / "image.vmdk"
    path.write_text(
        '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
        f'RW 2048 FLAT "{secret}" 0\n'
    )
    assert leaks(path, "vmdk")
    assert refused(path)


def test_a_sparse_vmdk_whose_embedded_descriptor_takes_over(
    secret: Path, tmp_path: Path, make: Callable[[str], Path]
) -> None:
    """With a capacity of 0 QEMU obeys the embedded list of extents. Two createTypes fool who reads only the first."""
    data = bytearray(make("vmdk").read_bytes())
    struct.pack_into("<Q", data, 12, 0)
    descriptor = (
        '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\nCREATETYPE="monolithicSparse"\n'
        f'createType="monolithicFlat"\nRW 2048 FLAT "{secret.name}" 0\n'
    )
    data[512 : 512 + 20 * 512] = descriptor.encode().ljust(20 * 512, b"\0")
    path = tmp_path / "image.vmdk"
    path.write_bytes(data)
    assert leaks(path, "vmdk")
    assert refused(path)


def test_vmdk_parent(secret: Path, tmp_path: Path) -> None:
    """oslo.utils lets this one pass."""
    parent, path = tmp_path / "parent.vmdk", tmp_path / "image.vmdk"
    qemu_img("convert", "-f", "raw", "-O", "vmdk", secret, parent)
    qemu_img("create", "-q", "-f", "vmdk", "-b", parent, "-F", "vmdk", path)
    assert leaks(path, "vmdk")
    assert refused(path)


def test_vmdk_parent_without_a_name(make: Callable[[str], Path]) -> None:
    data = make("vmdk").read_bytes().replace(b"parentCID=ffffffff", b"parentCID=12345678")
    with pytest.raises(UnsafeImage):
        inspect(io.BytesIO(data))


@pytest.mark.parametrize("offset", [424, 440])
def test_vdi_parent(offset: int, make: Callable[[str], Path]) -> None:
    data = bytearray(make("vdi").read_bytes())
    data[offset] = 1
    with pytest.raises(UnsafeImage, match="parent"):
        inspect(io.BytesIO(data))


def test_vhd_parent(make: Callable[[str], Path]) -> None:
    data = bytearray(make("vpc").read_bytes())
    data[63] += 1  # dynamic to differencing
    data[67] -= 1  # its checksum
    with pytest.raises(UnsafeImage, match="parent"):
        inspect(io.BytesIO(data))


def test_vhdx_parent(make: Callable[[str], Path]) -> None:
    data = bytearray(make("vhdx").read_bytes())
    start = data.index(b"\x37\x67\xa1\xca\x36\xfa\x43\x4d")  # the item "file parameters"
    metadata = data.index(b"metadata")
    (item,) = struct.unpack_from("<I", data, start + 16)
    data[metadata + item + 4] |= 2
    with pytest.raises(UnsafeImage, match="parent"):
        inspect(io.BytesIO(data))


def test_a_polyglots_references_are_refused_too(secret: Path, tmp_path: Path) -> None:
    path = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", path)
    with path.open("r+b") as file:
        file.seek(32768)
        file.write(b"\x01CD001\x01")
    assert refused(path)


def test_an_allowed_backing_file_is_named_and_nothing_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "image"
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", "/nowhere/base", "-F", "raw", path, "1M")
    with path.open("rb") as file:
        assert inspect(file, allow_backing=True).backing == "/nowhere/base"


def test_a_backing_name_that_is_no_text_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "image"
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", "/nowhere/base", "-F", "raw", path, "1M")
    data = path.read_bytes().replace(b"/nowhere/base", b"/nowhere/\xff\xfe\xfd\xfc")
    with pytest.raises(ImageProblem, match="not text"):
        inspect(io.BytesIO(data), allow_backing=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'createType="monolithicSparse"', b'createType="twoGbMaxExtentFla"'),
        (b"createType=", b"createTipe="),
        (b" SPARSE ", b" FLAT   "),
        (b"RW ", b"XX "),
        (b'SPARSE "', b'SPARSE "/'),
    ],
)
def test_a_vmdk_whose_descriptor_is_not_that_of_one_file(old: bytes, new: bytes, make: Callable[[str], Path]) -> None:
    data = make("vmdk").read_bytes()
    assert data.count(old) == 1
    with pytest.raises(UnsafeImage):
        inspect(io.BytesIO(data.replace(old, new)))


def test_a_vmdk_of_a_name_that_is_not_ascii_is_whole(make: Callable[[str], Path]) -> None:
    """VMware writes it in the code page of its machine."""
    data = bytearray(make("vmdk").read_bytes())
    at = data.index(b'SPARSE "') + len(b'SPARSE "')
    data[at : at + 1] = b"\xfc"
    assert inspect(io.BytesIO(data)).format == "vmdk"
