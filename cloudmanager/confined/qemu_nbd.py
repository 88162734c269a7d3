"""qemu-nbd's command line, and its messages without the block graph that is on it.

What it is to open is an explicit graph of block nodes: nothing is left to QEMU's probing or its defaults.
https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html, BlockdevOptions
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

SHARED, EXPORT_NAME = "--shared=", "--export-name="
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
_GRAPH_START = "json:{"
_DECODER = json.JSONDecoder()


class UnknownFormat(ValueError):
    """QEMU has no driver for it that is used here."""


@dataclass(frozen=True)
class BlockNode:
    """One image, under the name by which qemu-nbd reaches it."""

    filename: str
    format: str
    is_block: bool = False
    is_writable: bool = False
    uses_page_cache: bool = True
    is_disposable: bool = False
    """Its bytes need not survive the machine, so a flush need not reach the disk."""
    driver_options: Mapping[str, str] = field(default_factory=dict)
    """Options of the format's driver."""
    size_bytes: int | None = None
    """Whole sectors. So many of its bytes are shown, never more, and QEMU refuses to open it if there are fewer."""


def block_graph(nodes: Sequence[BlockNode]) -> str:
    """The file name for qemu-nbd: the first node is exported, each reads through the one after it.

    Raises UnknownFormat.
    """
    graph: Options | None = None
    for node in reversed(nodes):
        graph = _sized(node, _options(node, graph))
    return "json:" + json.dumps(graph)


def _sized(node: BlockNode, options: Options) -> Options:
    if node.size_bytes is None:
        return options
    if options["driver"] == "raw":
        return options | {"size": node.size_bytes}
    return {"driver": "raw", **_common(node), "size": node.size_bytes, "file": options}


def _options(node: BlockNode, backing: Options | None) -> Options:
    driver = _DRIVERS.get(node.format)
    if driver is None:
        raise UnknownFormat(f"The format {node.format!r} cannot be served; these can: {', '.join(sorted(_DRIVERS))}.")
    options: Options = {"driver": driver, **node.driver_options, **_common(node), "file": _file(node)}
    if driver != "raw":
        options["backing"] = backing
    return options


def _file(node: BlockNode) -> Options:
    return {"driver": "host_device" if node.is_block else "file", "filename": node.filename, **_common(node)}


def _common(node: BlockNode) -> Options:
    options: Options = {
        "read-only": not node.is_writable,
        "auto-read-only": False,
        "cache": {"direct": not node.uses_page_cache, "no-flush": node.is_disposable},
    }
    if node.is_writable:
        options |= {"discard": "unmap", "detect-zeroes": "unmap"}
    return options


def arguments(
    export_name: str, connections: int, nodes: Sequence[BlockNode], *, read_only: bool, options: Sequence[str] = ()
) -> list[str]:
    """The command line without the program. Raises UnknownFormat.

    `connections`: how many clients are served at a time. `nodes`: as for `block_graph`.
    """
    access = ["--read-only"] if read_only else []
    return [f"{SHARED}{connections}", f"{EXPORT_NAME}{export_name}", *options, *access, block_graph(nodes)]


def without_graphs(text: str, instead: str = "the image") -> str:
    """Each block graph (`json:{…}`, which is how QEMU names an image) and its quotes become `instead`.

    A graph has paths that no person has given and the name of an export, which is as good as a key to it. QEMU cuts
    long ones off (PATH_MAX): then the rest of the line goes.
    """
    parts = []
    at = 0
    while (start := text.find(_GRAPH_START, at)) >= 0:
        end = _end_of_graph(text, start + len(_GRAPH_START) - 1)
        quote = text[start - 1 : start]
        is_quoted = quote in ("'", '"') and text[end : end + 1] == quote
        parts += [text[at : start - is_quoted], instead]
        at = end + is_quoted
    return "".join(parts) + text[at:]


def _end_of_graph(text: str, brace: int) -> int:
    try:
        return _DECODER.raw_decode(text, brace)[1]
    except (ValueError, RecursionError):
        newline = text.find("\n", brace)
        return len(text) if newline < 0 else newline
