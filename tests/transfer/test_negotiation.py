"""The NBD handshake as it is sent and read, against the protocol's own numbers."""

import io
import struct

import pytest

from cloudmanager.transfer import negotiation
from cloudmanager.transfer.negotiation import ExportInfo, OptionReply, ProtocolError

REPLY = struct.Struct(">QIII")
MAGIC = 0x3E889045565A9


def receive(*parts: bytes) -> negotiation.Receive:
    return io.BytesIO(b"".join(parts)).read


def reply(kind: int, payload: bytes = b"", magic: int = MAGIC) -> bytes:
    return REPLY.pack(magic, 7, kind, len(payload)) + payload


def test_an_export_is_asked_for_by_name() -> None:
    assert negotiation.go("å") == b"IHAVEOPT" + bytes.fromhex("00000007 00000008 00000002 c3a5 0000")


def test_only_known_flags_are_answered() -> None:
    assert negotiation.client_flags(0b1110) == bytes([0, 0, 0, 0b10])


def test_what_is_no_newstyle_server_is_named() -> None:
    with pytest.raises(ProtocolError, match=r"greets with b'SSH-2\.0-"):
        negotiation.server_flags(b"SSH-2.0-OpenSSH_9.")


def test_the_size_and_the_flags_come_before_the_acknowledgement() -> None:
    other_information = reply(3, struct.pack(">HIII", 3, 1, 4096, 1 << 25))
    export = reply(3, struct.pack(">HQH", 0, 1 << 40, 0b11))

    answer = negotiation.read_reply(receive(other_information, export, reply(1)))

    assert answer == OptionReply(1, ExportInfo(1 << 40, 0b11))
    assert answer.is_acknowledged


def test_an_error_ends_the_option_with_its_message() -> None:
    answer = negotiation.read_reply(receive(reply(1 << 31 | 5, b"TLS first")))

    assert (answer.requires_tls, answer.is_acknowledged, answer.message) == (True, False, "TLS first")


@pytest.mark.parametrize("malformed", [reply(1, magic=1), REPLY.pack(MAGIC, 7, 3, 1 << 20)])
def test_a_malformed_reply_is_not_believed(malformed: bytes) -> None:
    with pytest.raises(ProtocolError, match="malformed"):
        negotiation.read_reply(receive(malformed))


def test_bytes_are_read_and_a_bad_sector_gives_none() -> None:
    header = struct.Struct(">IIQ")

    assert negotiation.read_answer(receive(header.pack(0x67446698, 0, 0), b"disk"), 4) == b"disk"
    assert negotiation.read_answer(receive(header.pack(0x67446698, 5, 0)), 4) == b""
