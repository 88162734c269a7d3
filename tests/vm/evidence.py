"""Disks whose file systems were copied in the middle of work, small enough for an emulated processor to read."""

import os
from pathlib import Path

from tests.client.access_methods import disks

MIB = 2**20
MAKERS = {
    "ext4": ("mke2fs", "-q", "-t", "ext4"),
    "xfs": ("mkfs.xfs", "-q", "--unsupported"),  # for tests: smaller than a file system of daily life may be
}
SIZES = {"ext4": 16 * MIB, "xfs": 24 * MIB}
PARTITIONS = {"1": "ext4", "2": "xfs"}


def make_evidence(directory: Path) -> Path:
    """A GPT disk with the PARTITIONS, each with `greeting` and a journal that has not been replayed."""
    image = directory / "evidence.raw"
    sizes = [SIZES[kind] for kind in PARTITIONS.values()]
    rows = [f"size={size // MIB}MiB, type={disks.LINUX}" for size in sizes]
    disks.partition(image, sum(sizes) + 2 * MIB, "\n".join(["label: gpt", *rows]))
    for start, kind in zip(disks.starts(image), PARTITIONS.values(), strict=True):
        disks.put(image, start, _copied_in_use(directory, kind))
    return image


def _copied_in_use(directory: Path, kind: str) -> Path:
    image, copy = directory / kind, directory / f"{kind}.copy"
    image.touch()
    os.truncate(image, SIZES[kind])
    disks.run(*MAKERS[kind], image)
    with disks.mounted(image) as files:
        (files / "greeting").write_text(disks.GREETING)
        (files / "late").write_text("early\n" * 1000)
    with disks.mounted(image) as files:
        disks.write_through(files / "late")
        disks.run("cp", "--sparse=always", image, copy)
    return copy
