"""What qemu-nbd is to open, as an explicit graph of block nodes: nothing is left to QEMU's probing or its defaults.

https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html, BlockdevOptions
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from cloudmanager.core.errors import ImageError

Options: TypeAlias = dict[str, "str | int | bool | Options | None"]

_DRIVERS = {
    "dmg": "dmg",
    "parallels": "parallels",
    "qcow2": "qcow2",
    "raw": "raw",
    "vdi": "vdi",
    "vhd": "vpc",
    "vhdx": "vhdx",
    "vmdk": "vmdk",
    "vpc": "vpc",
}


@dataclass(frozen=True)
class Node:
    """One image, under the name by which qemu-nbd reaches it."""

    filename: str
    format: str
    is_block: bool = False
    is_writable: bool = False
    uses_page_cache: bool = True
    is_disposable: bool = False
    """Its bytes need not survive the machine, so a flush need not reach the disk."""
    driver_options: Mapping[str, str] = field(default_factory=dict)
    """What the format's driver must be told."""
    size_bytes: int | None = None
    """Whole sectors. So many of its bytes are shown, never more, and QEMU refuses to open it if there are fewer."""


def filename(nodes: Sequence[Node]) -> str:
    """The argument for qemu-nbd: the first node is exported, each reads through the one after it.

    Raises ImageError for a format that QEMU has no driver for.
    """
    graph: Options | None = None
    for node in reversed(nodes):
        graph = _sized(node, _options(node, graph))
    return "json:" + json.dumps(graph)


def _sized(node: Node, options: Options) -> Options:
    if node.size_bytes is None:
        return options
    if options["driver"] == "raw":
        return options | {"size": node.size_bytes}
    return {"driver": "raw", **_common(node), "size": node.size_bytes, "file": options}


def _options(node: Node, backing: Options | None) -> Options:
    driver = _DRIVERS.get(node.format)
    if driver is None:
        raise ImageError(f"The format {node.format!r} cannot be served; these can: {', '.join(sorted(_DRIVERS))}.")
    options: Options = {"driver": driver, **node.driver_options, **_common(node), "file": _file(node)}
    if driver != "raw":
        options["backing"] = backing
    return options


def _file(node: Node) -> Options:
    return {"driver": "host_device" if node.is_block else "file", "filename": node.filename, **_common(node)}


def _common(node: Node) -> Options:
    options: Options = {
        "read-only": not node.is_writable,
        "auto-read-only": False,
        "cache": {"direct": not node.uses_page_cache, "no-flush": node.is_disposable},
    }
    if node.is_writable:
        options |= {"discard": "unmap", "detect-zeroes": "unmap"}
    return options
