"""What is said to be on a disk, against what the makers of it say."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cloudmanager.client import access_methods
from cloudmanager.client.access_methods import Part, lvm
from cloudmanager.client.access_methods.errors import AccessFailed
from tests.client.access_methods import disks
from tests.client.access_methods.disks import FILE_SYSTEMS, MiB, run
from tests.client.access_methods.serving import Serving
from tests.loop_devices import loop_device


def test_partitions_of_a_gpt_disk_and_their_file_systems(evidence: Path) -> None:
    layout = access_methods.read_layout(evidence)
    assert layout.scheme == "gpt"
    assert {part.name: part.content and part.content.type for part in layout.parts} == FILE_SYSTEMS
    assert [part.start_bytes for part in layout.parts] == disks.starts(evidence)
    assert layout.parts[3].kind == disks.WINDOWS.lower()
    assert all(part.is_filesystem for part in layout.parts)


def test_labels_come_through_as_they_are(tmp_path: Path) -> None:
    disks.partition(tmp_path / "disk", 8 * MiB, 'label: gpt\nsize=4MiB, name="a b$(id) é"')
    disks.put(tmp_path / "disk", MiB, _ext4(tmp_path, 'c "d\\ $é'))
    (part,) = access_methods.read_layout(tmp_path / "disk").parts
    assert part.content is not None
    assert (part.label, part.content.label) == ("a b$(id) é", 'c "d\\ $é')


def test_logical_partitions_of_an_mbr_disk_are_listed(tmp_path: Path) -> None:
    disks.partition(tmp_path / "disk", 32 * MiB, "label: dos\nsize=4MiB, type=83\ntype=5\nsize=4MiB, type=7")
    layout = access_methods.read_layout(tmp_path / "disk")
    assert layout.scheme == "dos"
    assert [(part.name, part.kind) for part in layout.parts] == [("1", "0x83"), ("2", "0x5"), ("5", "0x7")]


def test_a_file_system_without_partitions_is_the_whole_disk(tmp_path: Path) -> None:
    layout = access_methods.read_layout(_ext4(tmp_path, "plain"))
    assert (layout.scheme, [part.name for part in layout.parts]) == ("", ["disk"])
    assert layout.parts[0].is_filesystem


def test_a_disk_of_noise_is_one_part_of_unknown_content(raw: Path) -> None:
    assert access_methods.read_layout(raw).parts == (Part("disk", 0, raw.stat().st_size),)


def test_what_is_encrypted_is_named(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(b"LUKS\xba\xbe\x00\x01" + bytes(MiB))
    (part,) = access_methods.read_layout(image).parts
    assert part.content is not None
    assert (part.content.type, part.is_filesystem) == ("crypto_LUKS", False)


def test_a_disk_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        access_methods.read_layout(tmp_path / "missing")


def test_it_reads_the_same_through_the_export(serving: Serving, evidence: Path) -> None:
    with access_methods.file(serving.address(evidence)) as disk:
        assert access_methods.read_layout(disk.path) == access_methods.read_layout(evidence)


def test_logical_volumes_are_listed_as_lvm_made_them(group: Path) -> None:
    layout = access_methods.read_layout(group)
    whole, split = layout.part("evidence/whole"), layout.part("evidence/split")
    assert whole is not None
    assert split is not None
    assert (whole.size_bytes, whole.content and whole.content.type) == (16 * MiB, "ext4")
    assert (split.size_bytes, split.start_bytes) == (8 * MiB, None)


def test_a_physical_volume_in_no_group_has_no_logical_volumes(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    disks.partition(image, 16 * MiB, "label: gpt\n")
    image.write_bytes(bytes(16 * MiB))
    with loop_device(image) as loop:
        run("pvcreate", "--driverloaded", "n", "--devices", loop, loop)
    (part,) = access_methods.read_layout(image).parts
    assert part.content is not None
    assert part.content.type == "LVM2_member"


@pytest.mark.parametrize("damage", [b"LABELONE", b"LVM2 x[5A%r0N*>", b"extent_size", b"physical_volumes", b'"striped"'])
def test_damaged_lvm_metadata_is_an_error_or_less_and_nothing_worse(group: Path, damage: bytes) -> None:
    content = group.read_bytes()
    group.write_bytes(content.replace(damage, b"\xff" * len(damage)))
    start = disks.starts(group)[1]
    try:
        found = lvm.logical_volumes(group, range(start, len(content)))
    except AccessFailed as error:
        assert "cannot be understood" in str(error)  # noqa: PT017 - or it is not raised
    else:
        assert all(volume.start_bytes is None for volume in found)


def test_lvms_text_format_is_understood() -> None:
    text = 'a = 1 # comment "\n# another {\nb {\n c = ["x", 2,\n 3]\n d = "q\\"}"\n}\ne = []\n# the end'
    assert lvm.parse(text) == {"a": 1, "b": {"c": ["x", 2, 3], "d": 'q"}'}, "e": []}


@pytest.mark.parametrize("text", ["a", "a = ", "a = {", "a { b = 1", "a = [1", "} ", 'a = "', "= 1", "a = ?", "[ = ]"])
def test_text_that_is_not_lvms_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        lvm.parse(text)


def _ext4(directory: Path, label: str) -> Path:
    image = directory / "ext4"
    subprocess.run(["truncate", "--size=4M", image], check=True)
    run("mke2fs", "-q", "-t", "ext4", "-L", label, image)
    return image
