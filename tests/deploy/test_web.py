"""Images behind URLs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager.client.deploy.errors import SourceChanged, SourceError
from tests.deploy import images
from tests.deploy.web import Site, serving_web


@pytest.fixture
def site(raw: Path) -> Iterator[Site]:
    with serving_web(raw) as site:
        yield site


def test_a_raw_image_is_read_by_ranges(raw, site, blank, put):
    put(site.url, blank.address, verify=True)
    assert images.same(raw, blank.disk, images.SIZE)
    assert images.allocated(blank.disk) <= images.allocated(raw)
    assert any(asked not in ("", "bytes=0-8") for asked in site.asked)


def test_of_a_qcow2_only_what_is_in_it_is_fetched(raw, site, blank, put):
    site.image = images.converted(raw, "qcow2", "web.qcow2")
    put(site.url, blank.address)
    assert images.same(raw, blank.disk, images.SIZE)


def test_a_server_without_ranges_is_read_from_start_to_end(raw, site, blank, put):
    site.has_ranges = False
    put(site.url, blank.address, verify=True)
    assert images.same(raw, blank.disk, images.SIZE)


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_compressed_image_is_read_from_start_to_end(has_ranges, raw, site, blank, put):
    site.has_ranges = has_ranges
    site.image = images.compressed(raw, "zstd")
    put(site.url, blank.address)
    assert images.same(raw, blank.disk, images.SIZE)


def test_a_redirection_is_followed(raw, site, blank, put):
    put(site.url.replace("/image", "/moved"), blank.address)
    assert images.same(raw, blank.disk, images.SIZE)


@pytest.mark.parametrize("has_ranges", [True, False])
def test_an_image_that_is_replaced_meanwhile_leaves_no_head(has_ranges, site, blank, put):
    site.has_ranges = has_ranges

    def replace(progress: object) -> None:
        site.etag = '"two"' if progress.phase == "flushing" else site.etag

    with pytest.raises(SourceChanged):
        put(site.url, blank.address, progress=replace)
    with blank.disk.open("rb") as disk:
        assert not disk.read(images.MIB).strip(b"\0")


def test_a_body_that_ends_early_is_an_error(raw, site, blank, put):
    site.has_ranges = False
    site.cut_after = images.SIZE // 2
    with pytest.raises(SourceError, match="peer closed") as caught:
        put(site.url, blank.address)
    assert caught.value.is_resumable


def test_an_answer_that_is_an_error_names_its_status(site, blank, put):
    with pytest.raises(SourceError, match="404"):
        put(site.url + "s", blank.address)


def test_a_qcow2_whose_backing_file_is_an_address_is_refused(site, blank, put, tmp_path):
    import subprocess

    from cloudmanager.client.deploy.errors import UnsafeSource

    site.image = tmp_path / "overlay.qcow2"
    backing = site.url + "-of-somebody-else"
    command = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", "raw", str(site.image), "1M"]
    subprocess.run(command, check=True)
    with pytest.raises(UnsafeSource):
        put(site.url, blank.address)
    assert len(site.asked) == 2
