"""The tools of investigators answer the same of our file and of our stub as of the image itself."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytsk3

from cloudmanager.client import access_methods
from cloudmanager.client.address import NbdAddress
from tests.client.access_methods.disks import FILE_SYSTEMS, GREETING, run, starts
from tests.client.access_methods.serving import Serving

Tool = Callable[[Path], object]
NTFS = list(FILE_SYSTEMS.values()).index("ntfs")
EXT4 = list(FILE_SYSTEMS.values()).index("ext4")


def sector(disk: Path, partition: int) -> str:
    return str(starts(disk)[partition] // 512)


def mmls(disk: Path) -> str:
    return run("mmls", disk)


def fls_ext4(disk: Path) -> str:
    return run("fls", "-r", "-p", "-o", sector(disk, EXT4), disk)


def fls_ntfs_with_deleted_files(disk: Path) -> str:
    listed = run("fls", "-r", "-p", "-o", sector(disk, NTFS), disk)
    assert re.search(r"\* .*deleted", listed)
    return listed


def icat_of_a_file(disk: Path) -> str:
    content = run("icat", "-o", sector(disk, EXT4), disk, _inode(disk, EXT4, "greeting"))
    assert content == GREETING
    return content


def icat_of_a_deleted_file(disk: Path) -> str:
    content = run("icat", "-r", "-o", sector(disk, NTFS), disk, _inode(disk, NTFS, "deleted"))
    assert content.startswith("Nobody will read this.")
    return content


def fsstat(disk: Path) -> str:
    return run("fsstat", "-o", sector(disk, EXT4), disk)


def blkid(disk: Path) -> list[str]:
    offsets = [["--offset", str(start)] for start in [0, *starts(disk)]]
    return [run("blkid", "--probe", "--output", "udev", *offset, disk) for offset in offsets]


def file(disk: Path) -> str:
    return run("file", "--brief", disk)


def qemu_img_info(disk: Path) -> str:
    return re.sub(r"(filename|disk size|image): .*|\(.*", "", run("qemu-img", "info", "-f", "raw", disk)).splitlines()[
        2
    ]


def sfdisk(disk: Path) -> str:
    return run("sfdisk", "--dump", disk).replace(str(disk), "DISK")


def pytsk3_lists_every_file(disk: Path) -> list[tuple[bytes, int, int]]:
    """With the reader for Python."""
    image = pytsk3.Img_Info(str(disk))
    volume = pytsk3.FS_Info(image, offset=starts(disk)[NTFS])
    found = [(entry.info.name.name, int(entry.info.name.flags), _size(entry)) for entry in volume.open_dir("/")]
    assert (b"deleted", int(pytsk3.TSK_FS_NAME_FLAG_UNALLOC)) in [each[:2] for each in found]
    return found


TOOLS: list[Tool] = [
    mmls,
    fls_ext4,
    fls_ntfs_with_deleted_files,
    icat_of_a_file,
    icat_of_a_deleted_file,
    fsstat,
    blkid,
    file,
    qemu_img_info,
    sfdisk,
    pytsk3_lists_every_file,
]


@pytest.fixture(params=["file", "stub"])
def read_as(request: pytest.FixtureRequest, serving: Serving, evidence: Path, tmp_path: Path) -> Iterator[Path]:
    """The disk by one of the ways. The stub is read through qemu-nbd, as by a worker that takes qcow2."""
    address = serving.address(evidence)
    if request.param == "file":
        with access_methods.file(address) as disk:
            yield disk.path
        return
    socket = tmp_path / "socket"
    with access_methods.stub(address, tmp_path / "disk.qcow2") as stub:
        command = ["qemu-nbd", "--read-only", "--format=qcow2", "--persistent", "--shared=8", f"--socket={socket}"]
        pid = tmp_path / "pid"
        run(*command, "--fork", f"--pid-file={pid}", stub.path)
        try:
            with access_methods.file(NbdAddress(f"nbd+unix:///?socket={socket}")) as disk:
                yield disk.path
        finally:
            os.kill(int(pid.read_text()), signal.SIGTERM)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: str(tool.__name__))
def test_a_tool_answers_the_same(read_as: Path, evidence: Path, tool: Tool) -> None:
    assert tool(read_as) == tool(evidence)


def test_qemu_img_says_how_large_the_stub_is(serving: Serving, evidence: Path, tmp_path: Path) -> None:
    with access_methods.stub(serving.address(evidence), tmp_path / "disk.qcow2") as stub:
        reported = json.loads(run("qemu-img", "info", "--output=json", stub.path))
    assert (reported["virtual-size"], reported["format"]) == (evidence.stat().st_size, "qcow2")


def _inode(disk: Path, partition: int, name: str) -> str:
    listed = run("fls", "-o", sector(disk, partition), disk)
    found = re.search(rf"(\d+)(?:-\d+-\d+)?(?:\(realloc\))?:\t{name}$", listed, re.MULTILINE)
    assert found, listed
    return found[1]


def _size(entry: pytsk3.File) -> int:
    return int(entry.info.meta.size) if entry.info.meta else -1
