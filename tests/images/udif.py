"""Writes dmg images, which qemu-img cannot: a property list of chunks, and the trailer (see dmg in QEMU's block/)."""

from __future__ import annotations

import base64
import struct
import zlib

_RAW, _ZLIB, _END = 1, 0x80000005, 0xFFFFFFFF
_CHUNK = struct.Struct(">IIQQQQ")


def udif(content: bytes, *, segments: int = 1) -> bytes:
    """A dmg of two chunks, the first one compressed."""
    half = len(content) // 1024 * 512
    packed, plain = zlib.compress(content[:half]), content[half:]
    chunks = [
        _CHUNK.pack(_ZLIB, 0, 0, half // 512, 0, len(packed)),
        _CHUNK.pack(_RAW, 0, half // 512, len(plain) // 512, len(packed), len(plain)),
        _CHUNK.pack(_END, 0, len(content) // 512, 0, len(packed) + len(plain), 0),
    ]
    table = struct.pack(">4sIQQQII", b"mish", 1, 0, len(content) // 512, 0, 0x208, 0).ljust(200, b"\0")
    table += struct.pack(">I", len(chunks)) + b"".join(chunks)
    plist = (
        '<?xml version="1.0"?><plist version="1.0"><dict><key>resource-fork</key><dict><key>blkx</key><array><dict>'
        f"<key>Data</key><data>{base64.b64encode(table).decode()}</data>"
        "</dict></array></dict></dict></plist>"
    ).encode()
    data = packed + plain
    return data + plist + _trailer(len(data), len(plist), len(content) // 512, segments)


def _trailer(data_bytes: int, plist_bytes: int, sectors: int, segments: int) -> bytes:
    head = struct.pack(">4sIIIQQQQQII", b"koly", 4, 512, 1, 0, 0, data_bytes, 0, 0, 1, segments)
    trailer = bytearray(head.ljust(512, b"\0"))
    struct.pack_into(">QQ", trailer, 216, data_bytes, plist_bytes)
    struct.pack_into(">IQ", trailer, 488, 1, sectors)
    return bytes(trailer)
