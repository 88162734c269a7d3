"""Images in every format and subformat that qemu-img writes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

CONTENT_BYTES = 8 * 1024 * 1024
FLAVOURS = {
    "qcow2": ("qcow2", ""),
    "qcow2-v2": ("qcow2", "compat=0.10"),
    "qcow2-extended-l2": ("qcow2", "extended_l2=on"),
    "qcow2-lazy-refcounts": ("qcow2", "lazy_refcounts=on"),
    "qcow2-zstd": ("qcow2", "compression_type=zstd"),
    "qcow2-metadata": ("qcow2", "preallocation=metadata"),
    "qcow2-falloc": ("qcow2", "preallocation=falloc"),
    "qcow2-small-clusters": ("qcow2", "cluster_size=512"),
    "qcow2-large-clusters": ("qcow2", "cluster_size=2M"),
    **{f"qcow2-refcount{bits}": ("qcow2", f"refcount_bits={bits},cluster_size=4k") for bits in (1, 2, 4, 8, 32, 64)},
    "vmdk": ("vmdk", "subformat=monolithicSparse"),
    "vmdk-compat6": ("vmdk", "subformat=monolithicSparse,compat6=on"),
    "vmdk-zeroed-grain": ("vmdk", "subformat=monolithicSparse,zeroed_grain=on"),
    "vmdk-stream": ("vmdk", "subformat=streamOptimized"),
    "vdi": ("vdi", ""),
    "vdi-static": ("vdi", "static=on"),
    "vpc": ("vpc", ""),
    "vpc-sized": ("vpc", "force_size=on"),
    "vpc-fixed": ("vpc", "subformat=fixed"),
    "vpc-fixed-sized": ("vpc", "subformat=fixed,force_size=on"),
    "vhdx": ("vhdx", ""),
    "vhdx-fixed": ("vhdx", "subformat=fixed"),
    "vhdx-small-blocks": ("vhdx", "block_size=1M"),
    "parallels": ("parallels", ""),
}


def qemu_img(*arguments: str | Path) -> str:
    return subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def qemu_size(path: Path, format_name: str) -> int:
    """The virtual size, as QEMU's own driver has it."""
    return int(json.loads(qemu_img("info", "--output=json", "-f", format_name, path))["virtual-size"])


def is_same_disk(path: Path, format_name: str, raw: Path) -> bool:
    command = ["qemu-img", "compare", "-f", format_name, "-F", "raw", str(path), str(raw)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.fixture(scope="session")
def content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw disk with data at its start and near its end."""
    path = tmp_path_factory.mktemp("content") / "content.raw"
    with path.open("wb") as file:
        file.write(bytes(range(1, 256)) * 4096)
        file.seek(CONTENT_BYTES - 200_000)
        file.write(bytes(range(1, 256)) * 100)
        file.truncate(CONTENT_BYTES)
    return path


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory, content: Path) -> Callable[[str], Path]:
    """Makes the image of a flavour, once."""
    directory = tmp_path_factory.mktemp("images")

    def image(flavour: str) -> Path:
        path = directory / flavour
        format_name, options = FLAVOURS[flavour]
        if not path.exists():
            qemu_img("convert", "-O", format_name, *(["-o", options] if options else []), content, path)
        return path

    return image
