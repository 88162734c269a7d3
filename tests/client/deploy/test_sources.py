"""Every form that an image can have arrives as the same bytes."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudmanager.client.deploy.errors import DamagedSource, SourceError, UnsafeSource
from cloudmanager.client.deploy.served_source import served
from cloudmanager.images import Image
from tests.client.deploy import images
from tests.client.deploy.conftest import Put
from tests.client.deploy.servers import Server, serving
from tests.client.deploy.web import serving_web

FORMATS = {
    "qcow2": ("qcow2",),
    "qcow2-compressed": ("qcow2", "-c"),
    "vmdk": ("vmdk",),
    "vmdk-stream": ("vmdk", "-o", "subformat=streamOptimized"),
    "vdi": ("vdi",),
    "vhd-dynamic": ("vpc", "-o", "force_size"),
    "vhd-fixed": ("vpc", "-o", "subformat=fixed,force_size"),
    "vhdx": ("vhdx",),
}
PROGRAMS = ("gzip", "xz", "zstd", "lzop")


@pytest.fixture(scope="session")
def image_of(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            image_format, *options = FORMATS[name]
            made[name] = images.converted(raw, image_format, f"{name}.image", *options)
        return made[name]

    return make


def test_a_raw_file_arrives_with_its_holes(raw: Path, blank: Server, put: Put) -> None:
    result = put(raw, blank.address)
    assert images.same(raw, blank.disk, images.SIZE)
    assert images.allocated(blank.disk) <= images.allocated(raw)
    assert result.size_bytes == images.SIZE
    assert result.written_bytes < images.allocated(raw)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_of_its_own_arrives_as_the_disk_that_it_stands_for(
    name: str, image_of: Callable[[str], Path], raw: Path, blank: Server, put: Put
) -> None:
    result = put(image_of(name), blank.address)
    assert images.same(raw, blank.disk, images.SIZE)
    assert images.allocated(blank.disk) <= images.allocated(raw)
    assert result.size_bytes == images.SIZE


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_compressed_stream_arrives_plain_and_sparse(program: str, raw: Path, blank: Server, put: Put) -> None:
    result = put(images.compressed(raw, program), blank.address, verify=True)
    assert images.same(raw, blank.disk, images.SIZE)
    assert images.allocated(blank.disk) <= images.allocated(raw)
    assert result.size_bytes == images.SIZE


def test_the_bytes_decide_about_the_format_and_not_the_name(raw: Path, blank: Server, put: Put, tmp_path: Path) -> None:
    misnamed = tmp_path / "image.gz"
    misnamed.symlink_to(images.converted(raw, "qcow2", "misnamed.raw"))
    put(misnamed, blank.address)
    assert images.same(raw, blank.disk, images.SIZE)


def test_another_export_arrives(raw: Path, blank: Server, put: Put) -> None:
    with serving(raw, "--read-only", "--shared=8") as source:
        put(source.address, blank.address)
    assert images.same(raw, blank.disk, images.SIZE)


def test_a_source_that_serves_one_client_at_a_time_is_enough(raw: Path, blank: Server, put: Put) -> None:
    with serving(raw, "--read-only", "--shared=1") as source:
        put(source.address, blank.address, verify=True)
    assert images.same(raw, blank.disk, images.SIZE)


DEPLOY_STDIN = """
import sys
from pathlib import Path
from cloudmanager.client import NbdAddress
from cloudmanager.client.deploy import deploy
deploy("-", NbdAddress(sys.argv[1], is_writable=True), journal_directory=Path(sys.argv[2]))
"""


@pytest.mark.parametrize("program", ["cat", "zstd", "lzop"])
def test_standard_input_is_plain_or_compressed(program: str, raw: Path, blank: Server, journals: Path) -> None:
    feeding = [program, *([] if program == "cat" else ["-c", "-1"])]
    with raw.open("rb") as plain, subprocess.Popen(feeding, stdin=plain, stdout=subprocess.PIPE) as feeder:
        command = [sys.executable, "-c", DEPLOY_STDIN, blank.address.uri, str(journals)]
        subprocess.run(command, stdin=feeder.stdout, check=True)
        assert feeder.stdout is not None
        feeder.stdout.close()
    assert images.same(raw, blank.disk, images.SIZE)


def test_a_file_on_standard_input_is_read_like_a_file(
    image_of: Callable[[str], Path], raw: Path, blank: Server, journals: Path
) -> None:
    with image_of("qcow2").open("rb") as file:
        command = [sys.executable, "-c", DEPLOY_STDIN, blank.address.uri, str(journals)]
        subprocess.run(command, stdin=file, check=True)
    assert images.same(raw, blank.disk, images.SIZE)


def test_an_image_whose_length_is_no_multiple_of_anything_ends_in_zeros(tmp_path: Path, put: Put) -> None:
    odd = tmp_path / "odd.raw"
    odd.write_bytes(b"\xff" * (2 * images.MIB + 777))
    put(odd, tmp_path / "disk")
    arrived = (tmp_path / "disk").read_bytes()
    assert arrived.rstrip(b"\0") == odd.read_bytes()
    assert len(arrived) == 2 * images.MIB + 1024


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_stream_that_was_cut_off_leaves_a_target_without_a_head(
    program: str, raw: Path, blank: Server, put: Put, tmp_path: Path
) -> None:
    whole = images.compressed(raw, program).read_bytes()
    cut = tmp_path / "cut"
    cut.write_bytes(whole[: len(whole) // 2])
    with serving_web(cut) as site:
        site.has_ranges = False  # so that nothing can be known of its end
        with pytest.raises(DamagedSource) as caught:
            put(site.url, blank.address)
    assert caught.value.is_resumable
    with blank.disk.open("rb") as disk:
        assert not disk.read(images.MIB).strip(b"\0")


def test_a_container_inside_a_stream_is_stored_and_then_read(
    image_of: Callable[[str], Path], raw: Path, blank: Server, put: Put
) -> None:
    put(images.compressed(image_of("qcow2"), "gzip"), blank.address, verify=True)
    assert images.same(raw, blank.disk, images.SIZE)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(b"do not read" * 10000)
    return path


def _qcow2(path: Path, *options: str) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), "1M"], check=True)
    return path


def test_a_qcow2_with_a_backing_file_is_refused(secret: Path, blank: Server, put: Put, tmp_path: Path) -> None:
    image = _qcow2(tmp_path / "image", "-b", str(secret), "-F", "raw")
    with pytest.raises(UnsafeSource, match="another file"):
        put(image, blank.address)


def test_a_backing_file_that_an_image_names_after_the_check_is_not_opened(secret: Path, tmp_path: Path) -> None:
    image = _qcow2(tmp_path / "image", "-b", str(secret), "-F", "raw")
    with image.open("rb") as file, served(Image("qcow2", images.MIB), file.fileno(), "image") as server:
        read = subprocess.run(["nbdcopy", server.address.uri, "-"], check=True, capture_output=True).stdout
    assert secret.read_bytes().strip(b"\0")
    assert len(read) == images.MIB
    assert not read.strip(b"\0")


def test_a_qcow2_with_a_data_file_is_refused(blank: Server, put: Put, tmp_path: Path) -> None:
    image = _qcow2(tmp_path / "image", "-o", f"data_file={tmp_path / 'data'}")
    with pytest.raises(UnsafeSource, match="another file"):
        put(image, blank.address)


@pytest.mark.parametrize("kind", ["monolithicFlat", "twoGbMaxExtentSparse"])
def test_a_vmdk_that_names_other_files_is_refused(kind: str, blank: Server, put: Put, tmp_path: Path) -> None:
    image = tmp_path / "image.vmdk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", "-o", f"subformat={kind}", str(image), "1M"], check=True)
    with pytest.raises(UnsafeSource):
        put(image, blank.address)


def test_a_vmdk_whose_descriptor_was_altered_is_refused(
    raw: Path, secret: Path, blank: Server, put: Put, tmp_path: Path
) -> None:
    image = images.converted(raw, "vmdk", "altered.vmdk")
    content = image.read_bytes()
    flat = f'RW 4 FLAT "{secret}" 0'.encode()
    at = content.index(b"RW ")
    image.write_bytes(content[:at] + flat + b"\n" + content[at + len(flat) + 1 :])
    with pytest.raises(UnsafeSource):
        put(image, blank.address)


def test_a_damaged_image_is_refused(image_of: Callable[[str], Path], blank: Server, put: Put, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    content = bytearray(image_of("qcow2").read_bytes())
    content[40:48] = b"\xff" * 8  # where the first-level table is
    damaged.write_bytes(content)
    with pytest.raises(SourceError, match="does not start at a cluster"):
        put(damaged, blank.address)


def test_a_server_of_ours_ends_when_its_process_is_killed(image_of: Callable[[str], Path]) -> None:
    script = (
        "import sys\n"
        "from cloudmanager.client.deploy import sources\n"
        "from cloudmanager.transfer.libnbd import Timeouts\n"
        "with sources.opened(sys.argv[1], Timeouts()) as image:\n"
        "    print(image.size_bytes, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(image_of("qcow2"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == images.SIZE
        (server,) = _qemu_nbd_below(process.pid)
        watched = os.pidfd_open(server)
        process.kill()
    try:
        import select

        assert select.select([watched], [], [], 60)[0], "qemu-nbd still runs"
    finally:
        os.close(watched)


def _qemu_nbd_below(pid: int) -> list[int]:
    below = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    found = [child for child in below if Path(f"/proc/{child}/comm").read_text() == "qemu-nbd\n"]
    return found + [child for each in below for child in _qemu_nbd_below(each)]


def test_a_named_pipe_is_refused_without_waiting_for_who_writes_to_it(tmp_path: Path, put: Put) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="A stream is given on standard input"):
        put(tmp_path / "pipe", tmp_path / "disk")
    assert not (tmp_path / "disk").exists()


def test_a_temporary_directory_may_be_deeper_than_the_path_of_a_socket(
    raw: Path, blank: Server, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    put(images.converted(raw, "qcow2", "deep.qcow2"), blank.address)
    assert images.same(raw, blank.disk, images.SIZE)
    assert not list(deep.iterdir())
