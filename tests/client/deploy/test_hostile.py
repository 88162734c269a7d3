"""An image decides nothing but its own content, and one that is not whole is refused before anything is written."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from cloudmanager.client.deploy.errors import DamagedSource, MissingTool, SourceError
from cloudmanager.client.deploy.served_source import served
from cloudmanager.images import Image
from tests.client.deploy import images
from tests.client.deploy.conftest import Put
from tests.client.deploy.web import serving_web

MADE = {
    "qcow2": ("qcow2",),
    "qcow2 of large clusters": ("qcow2", "-o", "cluster_size=2M"),
    "qcow2 of version 2": ("qcow2", "-o", "compat=0.10"),
    "qcow2 of extended entries": ("qcow2", "-o", "extended_l2=on,cluster_size=128k"),
    "qcow2, zlib": ("qcow2", "-c"),
    "qcow2, zstd": ("qcow2", "-c", "-o", "compression_type=zstd"),
    "vmdk": ("vmdk",),
    "vmdk, streamOptimized": ("vmdk", "-o", "subformat=streamOptimized"),
    "vdi": ("vdi",),
    "vhd": ("vpc", "-o", "force_size"),
    "vhdx": ("vhdx",),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    raw = images.sparse_image(tmp_path_factory.mktemp("hostile") / "raw", 24 * images.MIB)
    made: dict[str, bytes] = {}

    def content(name: str) -> bytes:
        if name not in made:
            made[name] = images.converted(raw, MADE[name][0], "made", *MADE[name][1:]).read_bytes()
        return made[name]

    return content


@pytest.mark.parametrize("part", [0.6, 0.85])
@pytest.mark.parametrize("name", MADE)
def test_a_truncated_image_is_refused_before_anything_is_written(
    name: str, part: float, whole: Callable[[str], bytes], put: Put, tmp_path: Path
) -> None:
    image, disk = tmp_path / "image", tmp_path / "disk"
    image.write_bytes(whole(name)[: int(len(whole(name)) * part)])
    with pytest.raises(DamagedSource):
        put(image, disk)
    assert not disk.exists()


@pytest.mark.parametrize("has_ranges", [True, False])
def test_over_http_too(has_ranges: bool, whole: Callable[[str], bytes], put: Put, tmp_path: Path) -> None:
    image, disk = tmp_path / "image", tmp_path / "disk"
    image.write_bytes(whole("qcow2")[: len(whole("qcow2")) * 6 // 10])
    with serving_web(image) as site:
        site.has_ranges = has_ranges
        with pytest.raises(DamagedSource):
            put(site.url, disk)
    assert not disk.exists()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(b"CANARY.." * 10_000)
    path.chmod(0o600)
    return path


def with_second_extent(secret: Path) -> bytes:
    """QEMU reads a sparse VMDK whose header says 0 sectors by its descriptor, and that names another file."""
    text = (
        '# Disk DescriptorFile\nversion=1\n#createType="monolithicFlat"\nCID=12345678\nparentCID=ffffffff\n'
        'createType="monolithicSparse"\n\nRDONLY 2048 SPARSE "x.vmdk"\n'
        f'RW 100 FLAT "{secret}" 0\n'
    ).encode()
    header = struct.pack("<4sIIQQQQIQQQB4s", b"KDMV", 1, 3, 0, 128, 1, 20, 512, 21, 26, 128, 0, b"\n \r\n")
    return header.ljust(512, b"\0") + text.ljust(20 * 512, b"\0") + bytes(200 * 512)


def test_a_vmdk_with_a_second_extent_is_refused(secret: Path, put: Put, tmp_path: Path) -> None:
    image, disk = tmp_path / "image", tmp_path / "disk"
    image.write_bytes(with_second_extent(secret))
    with pytest.raises(SourceError):
        put(image, disk)
    assert not disk.exists()


@pytest.mark.parametrize("kind", ["vmdk", "data file"])
def test_what_an_image_names_is_not_there_for_who_opens_it(kind: str, secret: Path, tmp_path: Path) -> None:
    """Should a reference ever pass the inspection: qemu-nbd sees nothing but the one open file."""
    image = tmp_path / "image"
    if kind == "vmdk":
        image.write_bytes(with_second_extent(secret))
        found = Image("vmdk", 2148 * 512)
    else:
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={secret},data_file_raw=on", str(image)]
        content = secret.read_bytes()
        subprocess.run([*command, str(len(content) // 512 * 512)], check=True)
        secret.write_bytes(content)
        found = Image("qcow2", len(content) // 512 * 512)
    read = b""
    with suppress(SourceError), image.open("rb") as file, served(found, file.fileno(), "image") as server:
        command = ["nbdcopy", server.address.uri, "-"]
        read = subprocess.run(command, check=False, capture_output=True).stdout
    assert b"CANARY" not in read


def test_without_bubblewrap_the_error_says_what_to_install(
    whole: Callable[[str], bytes], put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("qemu-nbd", "sh"):
        (programs / name).symlink_to(shutil.which(name) or name)
    (tmp_path / "image").write_bytes(whole("vdi"))
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(MissingTool, match="bubblewrap"):
        put(tmp_path / "image", tmp_path / "disk")
    assert not (tmp_path / "disk").exists()


AS_NOBODY = """
import ctypes, os, sys
from pathlib import Path
from cloudmanager.client.deploy import deploy
from cloudmanager.confined import is_privileged
image, packed, directory = map(Path, sys.argv[1:])
deploy(image, directory / "by-root", journal_directory=directory / "root")  # everything is imported then
is_privileged.cache_clear()
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: /proc/self is ours again, as after an exec
deploy(image, directory / "by-user", journal_directory=directory / "user")
deploy(packed, directory / "unpacked-by-user", journal_directory=directory / "user")
"""


def test_an_ordinary_user_deploys_by_the_same_means(whole: Callable[[str], bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o777)
        raw = images.sparse_image(directory / "raw", 24 * images.MIB)
        (directory / "image").write_bytes(whole("qcow2"))
        packed = images.compressed(directory / "image", "gzip")
        subprocess.run([sys.executable, "-c", AS_NOBODY, directory / "image", packed, directory], check=True)
        assert images.same(raw, directory / "by-user")
        assert images.same(raw, directory / "unpacked-by-user")
