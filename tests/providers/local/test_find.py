"""The list of images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloudmanager.core.errors import InvalidRequest
from cloudmanager.core.model import Query
from cloudmanager.providers.local import LocalProvider
from cloudmanager.providers.local.directories import MAX_DEPTH
from cloudmanager.providers.local.listing import PAGE_SIZE
from cloudmanager.providers.local.settings import LocalSettings
from tests.providers.local.conftest import MiB, disk_id, found, qemu_img


@pytest.fixture
def images(directory: Path) -> LocalProvider:
    return LocalProvider("local", LocalSettings(images=(directory,)))


def test_disks_are_listed_as_they_are_described(images: LocalProvider, directory: Path, raw: Path) -> None:
    (directory / "case7").mkdir()
    qemu_img("create", "-q", "-f", "qcow2", directory / "case7" / "disk.qcow2", "1G")
    listed = found(images)
    assert list(listed) == ["case7/disk.qcow2", raw.name]
    assert listed["case7/disk.qcow2"].format == "qcow2"
    assert listed["case7/disk.qcow2"].size_bytes == 1 << 30
    for native, disk in listed.items():
        assert disk == images.describe(disk_id(native))


@pytest.mark.parametrize(
    ("name", "content", "is_listed"),
    [
        ("notes.txt", b"text" * 100, False),
        ("SHA256SUMS", b"0" * 512, False),
        (".hidden.raw", b"x" * MiB, False),
        ("empty.raw", b"", True),
        ("small.img", b"x" * 10, True),
        ("DISC.ISO", b"x" * 10, True),
        ("no-suffix", b"x" * MiB, True),
        ("not-whole-sectors", b"x" * (MiB + 1), False),
        ("container.txt", b"QFI\xfb", True),
    ],
)
def test_what_looks_like_a_disk_is_listed(
    name: str, content: bytes, is_listed: bool, images: LocalProvider, directory: Path
) -> None:
    (directory / name).write_bytes(content)
    assert (name in found(images)) == is_listed


def test_what_is_not_listed_can_still_be_named(images: LocalProvider, directory: Path) -> None:
    (directory / "odd.bytes").write_bytes(b"\x01" * 700)
    assert images.describe(disk_id("odd.bytes")).format == "raw"


@pytest.mark.parametrize("content", [b"", b"QFI\xfb", b"# Disk DescriptorFile\n"])
def test_a_broken_image_is_listed_with_the_reason_and_without_access(
    content: bytes, images: LocalProvider, directory: Path, raw: Path
) -> None:
    (directory / "broken.img").write_bytes(content)
    listed = found(images)
    assert raw.name in listed
    assert listed["broken.img"].access == frozenset()
    assert listed["broken.img"].description


def test_pages_cover_everything_once_and_in_order(images: LocalProvider, directory: Path) -> None:
    for number in range(PAGE_SIZE + 20):
        folder = directory / f"case{number % 7}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.raw").write_bytes(b"x" * 512)
    first = images.find(Query(), None)
    second = images.find(Query(), first.next_page)
    names = [disk.id.native for disk in (*first.items, *second.items)]
    assert len(first.items) == PAGE_SIZE
    assert second.next_page is None
    assert len(set(names)) == len(names) == PAGE_SIZE + 20
    assert names == sorted(names, key=lambda name: name.split("/"))


def test_changes_between_two_pages_repeat_and_skip_nothing_else(images: LocalProvider, directory: Path) -> None:
    for number in range(PAGE_SIZE + 5):
        (directory / f"{number:04}.raw").write_bytes(b"x" * 512)
    first = images.find(Query(), None)
    (directory / "0000.raw").unlink()
    (directory / f"{PAGE_SIZE - 1:04}.raw").unlink()
    (directory / "0000a.raw").write_bytes(b"x" * 512)
    second = images.find(Query(), first.next_page)
    assert [disk.id.native for disk in second.items] == [f"{PAGE_SIZE + number:04}.raw" for number in range(5)]


def test_exactly_one_page_has_no_next(images: LocalProvider, directory: Path) -> None:
    for number in range(PAGE_SIZE):
        (directory / f"{number}.raw").write_bytes(b"x" * 512)
    assert images.find(Query(), None).next_page is None


@pytest.mark.parametrize("token", ["", "x", "[]", '["image"]', '["image", -1, ["a"]]', '["image", 0, []]', "1" * 5000])
def test_a_made_up_page_token_is_refused(token: str, images: LocalProvider) -> None:
    if token:
        with pytest.raises(InvalidRequest):
            images.find(Query(), token)


def test_the_text_is_found_in_any_letter_case(images: LocalProvider, directory: Path) -> None:
    for name in ("Web01.raw", "db.raw"):
        (directory / name).write_bytes(b"x" * 512)
    assert list(found(images, "WEB")) == ["Web01.raw"]


@pytest.mark.parametrize("query", [Query(location="zone-1"), Query(labels={"a": "b"}), Query(state="READY")])
def test_what_local_disks_do_not_have_finds_nothing(query: Query, images: LocalProvider, raw: Path) -> None:
    assert images.find(query, None).items == ()


def test_a_name_in_two_directories_is_listed_under_both_paths(tmp_path: Path) -> None:
    directories = tuple(tmp_path / name for name in ("first", "second"))
    for directory in directories:
        directory.mkdir()
        (directory / "a.raw").write_bytes(b"x" * 512)
    provider = LocalProvider("local", LocalSettings(images=directories))
    listed = found(provider)
    assert list(listed) == [str(directory / "a.raw") for directory in directories]
    for native, disk in listed.items():
        assert provider.describe(disk_id(native)).canonical_id == disk.canonical_id


def test_links_that_lead_out_and_odd_files_are_left_out(images: LocalProvider, directory: Path, raw: Path) -> None:
    (directory / "out.raw").symlink_to("/etc/passwd")
    (directory / "circle.raw").symlink_to("circle.raw")
    (directory / "up").symlink_to(directory.parent)
    (directory / "inside.raw").symlink_to(raw.name)
    os.mkfifo(directory / "pipe.raw")
    (directory / "bell\a.raw").write_bytes(b"x" * 512)
    (Path(os.fsdecode(os.fsencode(directory) + b"/\xff.raw"))).write_bytes(b"x" * 512)
    assert list(found(images)) == ["inside.raw", raw.name]


def test_the_depth_is_bounded(images: LocalProvider, directory: Path) -> None:
    deep = directory.joinpath(*["d"] * (MAX_DEPTH + 1))
    deep.mkdir(parents=True)
    (deep / "too-deep.raw").write_bytes(b"x" * 512)
    (deep.parent / "deep.raw").write_bytes(b"x" * 512)
    assert [Path(name).name for name in found(images)] == ["deep.raw"]


def test_a_directory_that_is_missing_does_not_break_the_list(tmp_path: Path, directory: Path, raw: Path) -> None:
    provider = LocalProvider("local", LocalSettings(images=(tmp_path / "missing", directory)))
    assert list(found(provider)) == [raw.name]


def test_a_listing_does_not_read_the_data(images: LocalProvider, directory: Path) -> None:
    for number in range(20):
        path = directory / f"{number}.raw"
        path.touch()
        os.truncate(path, 1 << 40)
    before = _read_bytes()
    assert len(found(images)) == 20
    assert _read_bytes() - before < MiB


def _read_bytes() -> int:
    """By this process, from cache or disk."""
    return int(Path("/proc/self/io").read_text().split()[1])
