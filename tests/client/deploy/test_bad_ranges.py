"""A bad sector of the image costs that sector only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from cloudmanager.client.address import NbdAddress
from cloudmanager.client.deploy import BadRange, Progress
from cloudmanager.client.deploy.errors import TargetUnreadable, UnreadableRange, UnsupportedSource
from tests.bad_sector import damaged
from tests.client.deploy import images
from tests.client.deploy.conftest import Put
from tests.client.deploy.servers import Server
from tests.waiting import eventually

MIB = images.MIB
SIZE = 72 * MIB
"""Two units."""
SECTOR = 512
BAD = 66 * MIB + 7 * SECTOR
GRAIN = BadRange(66 * MIB, 4096)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = images.sparse_image(tmp_path_factory.mktemp("bad") / "image.raw", SIZE)
    with raw.open("r+b") as file:
        file.seek(66 * MIB - 8192)
        file.write(b"around it" * 4096)
    return raw


@pytest.fixture(scope="module")
def expected(image: Path) -> bytes:
    content = bytearray(image.read_bytes())
    content[GRAIN.offset : GRAIN.offset + GRAIN.length] = bytes(GRAIN.length)
    return bytes(content)


@contextmanager
def qemu_nbd_with_bad_sector(image: Path, directory: Path) -> Iterator[NbdAddress]:
    socket, ready = directory / "bad.socket", directory / "bad.pid"
    fault = {"event": "none", "iotype": "read", "errno": 5, "sector": BAD // SECTOR, "once": False}
    file = {"driver": "blkdebug", "inject-error": [fault], "image": {"driver": "file", "filename": str(image)}}
    graph = {"driver": "raw", "read-only": True, "file": file}
    command = ["qemu-nbd", "-t", "-r", "--shared=8", "-x", "disk", f"--socket={socket}", f"--pid-file={ready}"]
    with subprocess.Popen([*command, f"json:{json.dumps(graph)}"]) as server:
        eventually(ready.exists)
        try:
            yield NbdAddress(f"nbd+unix:///disk?socket={socket}")
        finally:
            server.terminate()


@contextmanager
def file_with_bad_sector_at(made: Path, at: int, directory: Path) -> Iterator[Path]:
    """As the kernel gives it: EIO for what touches the sector."""
    mounted, size = directory / "mounted", made.stat().st_size
    mounted.touch()
    pread = (
        f"if [ $4 -lt {at + SECTOR} ] && [ $(($4 + $3)) -gt {at} ]; then echo EIO >&2; exit 1; fi; "
        f"dd if={made} iflag=skip_bytes,count_bytes,fullblock bs=256k skip=$4 count=$3 2>/dev/null"
    )
    nbdkit = ["nbdkit", "-s", "--exit-with-parent", "eval", f"get_size=echo {size}", f"pread={pread}"]
    with subprocess.Popen(["nbdfuse", mounted, "--command", *nbdkit]) as fuse:
        try:
            eventually(lambda: mounted.stat().st_size == size or fuse.poll() is not None)
            yield mounted
        finally:
            subprocess.run(["fusermount3", "-u", mounted], check=True)


VARIANTS: dict[str, Callable[[Path, Path], AbstractContextManager[Path | NbdAddress]]] = {
    "nbd": qemu_nbd_with_bad_sector,
    "file": lambda image, directory: file_with_bad_sector_at(image, BAD, directory),
}


@pytest.mark.parametrize("way", VARIANTS)
def test_it_is_named_and_gone_around_on_request(
    way: str, image: Path, expected: bytes, put: Put, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    with VARIANTS[way](image, tmp_path) as source:
        with pytest.raises(
            UnreadableRange, match=rf"Bytes {GRAIN.offset} to {GRAIN.offset + 4095} .*--skip-bad"
        ) as caught:
            put(source, disk)
        assert (caught.value.offset, caught.value.length) == (GRAIN.offset, GRAIN.length)
        assert not disk.read_bytes()[:MIB].strip(b"\0")
        result = put(source, disk, skip_bad=True, verify=True)
    assert result.bad_ranges == (GRAIN,)
    assert disk.read_bytes() == expected


def test_an_image_in_a_format_of_its_own_on_a_bad_disk(image: Path, expected: bytes, put: Put, tmp_path: Path) -> None:
    """Its cluster is what cannot be read; where that lies in the file is QEMU's affair."""
    made = images.converted(image, "qcow2", "bad.qcow2", "-o", "preallocation=falloc")
    mapped = json.loads(
        subprocess.run(["qemu-img", "map", "--output=json", made], capture_output=True, check=True).stdout
    )
    part = next(each for each in mapped if each["start"] <= BAD < each["start"] + each["length"])
    shift = part["offset"] - part["start"]
    with file_with_bad_sector_at(made, BAD + shift, tmp_path) as source:
        result = put(source, tmp_path / "disk", skip_bad=True)
    assert result.bad_ranges == (GRAIN,)
    assert (tmp_path / "disk").read_bytes() == expected


def test_what_an_earlier_run_has_skipped_is_listed_and_without_the_option_read_again(
    image: Path, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudmanager.client.deploy.journal.COMMIT_SECONDS", 0.0)
    disk = tmp_path / "disk"

    class Enough(Exception):
        pass

    def end(progress: Progress) -> None:
        if progress.phase == "flushing":
            raise Enough

    with qemu_nbd_with_bad_sector(image, tmp_path) as source:
        with pytest.raises(Enough):
            put(source, disk, skip_bad=True, progress=end)
        with pytest.raises(UnreadableRange):
            put(source, disk)
        result = put(source, disk, skip_bad=True)
    assert result.bad_ranges == (GRAIN,)
    assert result.resumed_bytes


def test_the_command_tells_them_and_has_an_exit_code_for_it(image: Path, tmp_path: Path) -> None:
    with qemu_nbd_with_bad_sector(image, tmp_path) as source:
        command = [sys.executable, "-m", "cloudmanager", "deploy", source.uri, str(tmp_path / "disk")]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "XDG_STATE_HOME": str(tmp_path)}

        def run(*options: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run([*command, *options], env=environment, check=False, capture_output=True, text=True)

        failed, skipped = run(), run("--skip-bad")
        as_json = run("--skip-bad", "--overwrite", "--json")
    assert failed.returncode == 1
    assert f"Bytes {GRAIN.offset} to {GRAIN.offset + 4095} cannot be read" in failed.stderr
    assert skipped.returncode == as_json.returncode == 4
    assert f"bytes {GRAIN.offset} to {GRAIN.offset + 4095}" in skipped.stderr
    last = json.loads(as_json.stdout.splitlines()[-1])
    assert last["bad_ranges"] == [{"offset": GRAIN.offset, "length": GRAIN.length}]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_that_of_a_target_is_the_targets_and_is_named(raw: Path, put: Put, tmp_path: Path) -> None:
    target, at = tmp_path / "target.raw", 70 * MIB
    with target.open("wb") as file:
        file.truncate(images.SIZE)
    with damaged(target, tmp_path, at, SECTOR, is_writable=True) as bad:
        server = Server(bad, tmp_path / "target.socket")
        server.start()
        try:
            with pytest.raises(TargetUnreadable, match=rf"bad sector.*Bytes {at} to ") as caught:
                put(raw, server.address, verify=True)
        finally:
            server.stop()
    assert (caught.value.offset, caught.value.length >= SECTOR) == (at, True)


def test_what_comes_as_a_stream_has_no_way_around_and_is_refused(image: Path, put: Put, tmp_path: Path) -> None:
    packed = images.compressed(image, "gzip")
    with pytest.raises(UnsupportedSource, match="start to its end") as refused:
        put(packed, tmp_path / "disk", skip_bad=True)
    assert not refused.value.is_resumable
    assert not (tmp_path / "disk").exists()
    assert put(packed, tmp_path / "disk").bad_ranges == ()
