"""Images behind URLs."""

from __future__ import annotations

import os
import struct
import subprocess
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager.client.deploy import Phase, Progress
from cloudmanager.client.deploy.errors import (
    Cancelled,
    DamagedSource,
    SourceChanged,
    SourceError,
    UnsafeSource,
    UnsupportedSource,
)
from tests.client.deploy import images
from tests.client.deploy.conftest import Put
from tests.client.deploy.servers import Server
from tests.client.deploy.web import Site, serving_web


@pytest.fixture
def site(raw: Path) -> Iterator[Site]:
    with serving_web(raw) as site:
        yield site


def test_a_raw_image_is_read_by_ranges(raw: Path, site: Site, blank: Server, put: Put) -> None:
    put(site.url, blank.address, verify=True)
    assert images.same(raw, blank.disk, images.SIZE)
    assert images.allocated(blank.disk) <= images.allocated(raw)
    assert any(asked not in ("", "bytes=0-65535") for asked in site.asked)


def test_of_a_qcow2_only_what_is_in_it_is_fetched(raw: Path, site: Site, blank: Server, put: Put) -> None:
    site.image = images.converted(raw, "qcow2", "web.qcow2")
    put(site.url, blank.address)
    assert images.same(raw, blank.disk, images.SIZE)


def test_a_server_without_ranges_is_read_from_start_to_end(raw: Path, site: Site, blank: Server, put: Put) -> None:
    site.has_ranges = False
    put(site.url, blank.address, verify=True)
    assert images.same(raw, blank.disk, images.SIZE)


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_compressed_image_is_read_from_start_to_end(
    has_ranges: bool, raw: Path, site: Site, blank: Server, put: Put
) -> None:
    site.has_ranges = has_ranges
    site.image = images.compressed(raw, "zstd")
    put(site.url, blank.address)
    assert images.same(raw, blank.disk, images.SIZE)


def test_a_redirection_is_followed(raw: Path, site: Site, blank: Server, put: Put) -> None:
    put(site.url.replace("/image", "/moved"), blank.address)
    assert images.same(raw, blank.disk, images.SIZE)


@pytest.mark.parametrize("has_ranges", [True, False])
def test_an_image_that_is_replaced_meanwhile_leaves_no_head(
    has_ranges: bool, site: Site, blank: Server, put: Put
) -> None:
    site.has_ranges = has_ranges

    def replace(progress: Progress) -> None:
        site.etag = '"two"' if progress.phase == "flushing" else site.etag

    with pytest.raises(SourceChanged):
        put(site.url, blank.address, progress=replace)
    with blank.disk.open("rb") as disk:
        assert not disk.read(images.MIB).strip(b"\0")


def test_a_body_that_ends_early_is_an_error(raw: Path, site: Site, blank: Server, put: Put) -> None:
    site.has_ranges = False
    site.cut_after = images.SIZE // 2
    with pytest.raises(SourceError, match="closed before all had come") as caught:
        put(site.url, blank.address, reconnect_seconds=0)
    assert caught.value.is_resumable


def test_an_answer_that_is_an_error_names_its_status(site: Site, blank: Server, put: Put) -> None:
    with pytest.raises(SourceError, match="404"):
        put(site.url + "s", blank.address)


def test_a_server_that_is_busy_at_first_is_asked_again(raw: Path, site: Site, blank: Server, put: Put) -> None:
    site.busy = 2
    put(site.url, blank.address)
    assert images.same(raw, blank.disk, images.SIZE)


def test_a_server_that_stays_busy_is_an_error(site: Site, put: Put, tmp_path: Path) -> None:
    site.busy = 1 << 30
    with pytest.raises(SourceError, match="it answered 503"):
        put(site.url, tmp_path / "disk", reconnect_seconds=0)
    assert not (tmp_path / "disk").exists()


@pytest.mark.parametrize("has_ranges", [True, False])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("case.001", "one segment of a split image"),
        ("disk.img.aa", "one segment"),
        ("disk-flat.vmdk", "an extent of a VMDK"),
        ("disk.qcow2", "named like a qcow2 image"),
        ("disk%2Evhd", "named like a VHD"),
    ],
)
def test_what_only_its_name_tells_to_be_no_disk_is_refused(
    has_ranges: bool, name: str, message: str, site: Site, put: Put, tmp_path: Path
) -> None:
    site.has_ranges = has_ranges
    site.name = name
    disk = tmp_path / "disk"
    with pytest.raises(UnsupportedSource, match=message):
        put(site.url.replace("/image", f"/{name}"), disk)
    assert not disk.exists() or not disk.read_bytes()[: images.MIB].strip(b"\0")


def test_a_qcow2_whose_backing_file_is_an_address_is_refused(
    site: Site, blank: Server, put: Put, tmp_path: Path
) -> None:
    site.image = tmp_path / "overlay.qcow2"
    backing = site.url + "-of-somebody-else"
    command = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", "raw", str(site.image), "1M"]
    subprocess.run(command, check=True)
    with pytest.raises(UnsafeSource):
        put(site.url, blank.address)
    assert f"bytes=0-{site.image.stat().st_size - 1}" not in site.asked  # all of it


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_connection_that_breaks_is_made_again(
    has_ranges: bool, raw: Path, site: Site, blank: Server, put: Put
) -> None:
    site.has_ranges, site.cut_after, site.cuts = has_ranges, 9 * images.MIB + 11, 5
    put(site.url, blank.address, verify=True)
    assert images.same(raw, blank.disk, images.SIZE)
    assert site.cuts == 0


def test_a_compressed_stream_goes_on_where_it_broke(raw: Path, site: Site, blank: Server, put: Put) -> None:
    site.image, site.cut_after, site.cuts = images.compressed(raw, "zstd"), images.MIB, 2
    put(site.url, blank.address)
    assert images.same(raw, blank.disk, images.SIZE)
    assert site.cuts == 0
    assert any(asked.startswith("bytes=1048576-") for asked in site.asked)


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("has_ranges", [True, False])
def test_other_bytes_behind_a_break_are_a_change(
    has_ranges: bool, tells: bool, raw: Path, site: Site, blank: Server, put: Put, tmp_path: Path
) -> None:
    """By the ETag; without one, by reading again what had been read."""
    cuts = 1 if has_ranges else 2  # the first look at a server without ranges is one
    site.has_ranges, site.cut_after, site.cuts = has_ranges, 9 * images.MIB, cuts
    site.etag = site.etag if tells else ""
    other = images.sparse_image(tmp_path / "other.raw", seed=7)

    def replace() -> None:
        if not site.cuts:
            site.image, site.etag = other, '"two"' if tells else ""

    site.then = replace
    with pytest.raises(SourceChanged):
        put(site.url, blank.address, connections=1)
    with blank.disk.open("rb") as disk:
        assert not disk.read(images.MIB).strip(b"\0")


def test_a_signed_url_is_read_by_what_it_allows(raw: Path, site: Site, blank: Server, put: Put) -> None:
    site.secret, site.announces_ranges = "X-Amz-Signature=geheim", False
    put(f"{site.url}?{site.secret}", blank.address, verify=True)
    assert images.same(raw, blank.disk, images.SIZE)
    assert len([asked for asked in site.asked if asked]) > 2


@pytest.mark.parametrize("path", ["/image?a=geheim", "/nothing?a=geheim", "/elsewhere?geheim"])
def test_no_error_shows_a_query_or_a_password(path: str, site: Site, put: Put, tmp_path: Path) -> None:
    site.secret, site.leads_to = "a=another", "ftp://host/?geheim"
    url = site.url.replace("/image", path).replace("http://", "http://me:geheim@")
    with pytest.raises(SourceError) as caught:
        put(url, tmp_path / "disk", reconnect_seconds=0)
    assert "geheim" not in "".join(traceback.format_exception(caught.value))


def test_a_url_that_cannot_be_asked_for_is_refused_without_its_query(put: Put, tmp_path: Path) -> None:
    for url in ("http://host:port/?geheim", "ftp://host/?geheim", "http://host/\r\n?geheim", "http:///?geheim"):
        with pytest.raises(SourceError) as caught:
            put(url, tmp_path / "disk")
        assert "geheim" not in str(caught.value)


def test_the_journal_holds_no_query(site: Site, blank: Server, put: Put, journals: Path) -> None:
    site.secret, site.cut_after = "geheim", images.SIZE // 2
    with pytest.raises(SourceError):
        put(f"{site.url}?geheim", blank.address, reconnect_seconds=0)
    (journal,) = journals.iterdir()
    assert site.url in journal.read_text()
    assert "geheim" not in journal.read_text()


def test_a_user_in_the_url_is_told_to_the_named_server_only(raw: Path, site: Site, blank: Server, put: Put) -> None:
    with serving_web(raw) as other:
        put(site.url.replace("http://", "http://me:word@"), blank.address)
        assert {*site.credentials} == {"Basic bWU6d29yZA=="}
        assert not other.asked


@pytest.mark.parametrize("where", ["http://127.0.0.1:{}/image", "http://localhost:{}/", "http://[::ffff:127.0.0.1]:{}/",
                                   "http://169.254.169.254/", "http://10.0.0.1/", "http://[fd00::1]/", "http://0:{}/",
                                   "http://2130706433:{}/"])  # fmt: skip
def test_a_redirection_to_an_address_that_was_not_named_is_refused(
    where: str, raw: Path, site: Site, put: Put, tmp_path: Path
) -> None:
    with serving_web(raw) as other:
        site.leads_to = where.format(other.url.split(":")[2].partition("/")[0])
        with pytest.raises(UnsafeSource, match="not a public address"):
            put(site.url.replace("/image", "/elsewhere"), tmp_path / "disk")
        assert not other.asked


@pytest.mark.parametrize("kind", ["qcow2", "vdi", "vmdk", "vhdx"])
def test_a_truncated_image_is_refused_before_it_is_fetched(
    kind: str, raw: Path, site: Site, put: Put, tmp_path: Path
) -> None:
    site.image = tmp_path / f"image.{kind}"
    subprocess.run(["qemu-img", "convert", "-O", kind, str(raw), str(site.image)], check=True)
    size = site.image.stat().st_size * 2 // 3
    os.truncate(site.image, size)
    with pytest.raises(DamagedSource, match="truncated"):
        put(site.url, tmp_path / "disk")
    assert f"bytes=0-{size - 1}" not in site.asked
    assert not (tmp_path / "disk").exists()


def test_an_image_that_would_take_minutes_is_refused_before_it_is_fetched(site: Site, put: Put, tmp_path: Path) -> None:
    """Of 4 GiB, nearly all of which is a hole."""
    cluster, tables = 1 << 21, 2048
    header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 0, 0, 21, 1 << 59, 0, tables, 3 << 21, cluster, 1, 0, 0)
    site.image = tmp_path / "walk.qcow2"
    with site.image.open("wb") as file:
        file.write(header + struct.pack(">QQQII", 0, 0, 0, 4, 104) + bytes(8))
        file.truncate((20 + tables) * cluster)
    with pytest.raises(DamagedSource, match="first-level table"):
        put(site.url, tmp_path / "disk")
    assert site.asked == ["bytes=0-65535"]


@pytest.mark.parametrize("output", ["-5", "+5", "many", ""])
def test_an_answer_whose_length_is_no_number_is_refused_at_once(
    output: str, site: Site, put: Put, tmp_path: Path
) -> None:
    site.length = output
    with pytest.raises(SourceError, match="no number"):
        put(site.url, tmp_path / "disk")
    assert len(site.asked) == 1


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_format_of_its_own_is_stored_and_then_read(
    has_ranges: bool, raw: Path, site: Site, blank: Server, put: Put, reported: list[Progress]
) -> None:
    site.has_ranges, site.image = has_ranges, images.converted(raw, "vdi", "web.vdi")
    put(site.url, blank.address, progress=reported.append)
    assert images.same(raw, blank.disk, images.SIZE)
    assert Phase.FETCHING in {each.phase for each in reported}


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_fixed_vhd_is_read_without_its_footer(
    has_ranges: bool, raw: Path, site: Site, blank: Server, put: Put, reported: list[Progress]
) -> None:
    site.image = images.converted(raw, "vpc", "web.vhd", "-o", "subformat=fixed,force_size")
    site.has_ranges = has_ranges
    assert put(site.url, blank.address, progress=reported.append).size_bytes == images.SIZE
    assert images.same(raw, blank.disk, images.SIZE)
    assert images.allocated(blank.disk) <= images.allocated(raw)
    assert Phase.FETCHING not in {each.phase for each in reported}


def test_what_cannot_be_stored_is_refused_before_anything_is_written(
    raw: Path, site: Site, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.image = images.converted(raw, "qcow2", "web2.qcow2")
    monkeypatch.setattr("cloudmanager.client.deploy.spool._free", lambda _directory: 1000)
    with pytest.raises(SourceError, match=r"1000 bytes free.*TMPDIR"):
        put(site.url, tmp_path / "disk")
    assert not (tmp_path / "disk").exists()


def test_a_body_without_end_does_not_fill_the_file_system(
    raw: Path, site: Site, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.image = images.converted(raw, "qcow2", "web4.qcow2")
    site.says_length = site.has_ranges = False
    left = iter([1 << 30, 1 << 20])
    monkeypatch.setattr("cloudmanager.client.deploy.spool._free", lambda _directory: next(left, 0))
    with pytest.raises(SourceError, match="there are 0 bytes free, but for a reserve"):
        put(site.url, tmp_path / "disk")
    assert not (tmp_path / "disk").exists()


def test_an_answer_of_unknown_length_ends_with_its_connection(raw: Path, site: Site, blank: Server, put: Put) -> None:
    site.has_ranges = site.says_length = False
    put(site.url, blank.address)
    assert images.same(raw, blank.disk, images.SIZE)


def test_nobody_waits_for_a_silent_server_any_longer_when_it_is_cancelled(site: Site, blank: Server, put: Put) -> None:
    cancelled, silent = threading.Event(), threading.Event()

    def fall_silent() -> None:
        cancelled.set()
        silent.wait(60)

    site.cut_after, site.then = 8 * images.MIB, fall_silent
    try:
        with pytest.raises(Cancelled):
            put(site.url, blank.address, cancelled=cancelled)
    finally:
        silent.set()
