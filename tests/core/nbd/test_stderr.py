"""Of what QEMU says, a person sees the sentence: no block graph, which has the export's name."""

import json
import subprocess
from pathlib import Path

import pytest

from cloudmanager.client.access_methods import qcow2_stub, tls
from cloudmanager.client.access_methods.errors import AccessFailed
from cloudmanager.client.address import NbdAddress
from cloudmanager.confined import Stderr
from cloudmanager.confined.qemu_nbd import without_graphs
from cloudmanager.core.nbd.failure import clean, last_output

NAME = "0f3b6c8e-unguessable"
GRAPH = "json:" + json.dumps(
    {"driver": "raw", "file": {"driver": "nbd", "server": {"host": "a}b'c", "port": "1"}, "export": NAME}}
)


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        (f"Could not open '{GRAPH}': No such file", "Could not open the image: No such file"),
        (f'Could not open "{GRAPH}": No such file', "Could not open the image: No such file"),
        (f"Is another process using the image [{GRAPH}]?", "Is another process using the image [the image]?"),
        (f"a {GRAPH} b {GRAPH}\nc", "a the image b the image\nc"),
        (GRAPH, "the image"),
        (f"cut '{GRAPH[:60]}\nthe next line", "cut 'the image\nthe next line"),
        (f"cut {GRAPH[:-1]}", "cut the image"),
        ("json:{", "the image"),
        ("json:{" * 20_000, "the image"),
        ("json:" + '{"a":' * 20_000, "the image"),
        ("nothing of it {json:} here", "nothing of it {json:} here"),
    ],
    ids=lambda text: text[:20],
)
def test_a_graph_is_left_out(output: str, shown: str) -> None:
    assert without_graphs(output) == shown


def test_a_servers_last_words_have_no_piece_of_a_graph() -> None:
    stderr = Stderr()
    try:
        with open(stderr.fd, "wb", closefd=False) as file:
            file.write(f"qemu-nbd: Failed to blk_new_open '{GRAPH}': Broken\n".encode() * 3)
        assert last_output(stderr.read()).endswith("Broken")
        assert NAME not in last_output(stderr.read())
        assert clean(stderr.read(), {}) == "Broken; Broken; Broken"
    finally:
        stderr.close()


def test_what_qemu_img_says_of_an_address_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "tls_options", lambda *_: ())
    with pytest.raises(AccessFailed) as caught:
        with qcow2_stub.stub(NbdAddress(f"nbds://127.0.0.1:1/{NAME}"), tmp_path / "stub.qcow2"):
            pytest.fail("nobody listens there")
    assert "qemu-img" in caught.value.detail
    assert "json:" not in caught.value.detail
    assert NAME not in caught.value.detail


def test_qemu_really_writes_graphs_that_way(tmp_path: Path) -> None:
    output = subprocess.run(["qemu-img", "info", GRAPH], capture_output=True, text=True, check=False).stderr
    assert NAME in output
    assert NAME not in without_graphs(output)
