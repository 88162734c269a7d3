"""A keyword that does not exist is refused, by type checkers and at run time: it may be `access`, misspelled."""

from collections.abc import Callable
from pathlib import Path

import pytest
from mypy import api as mypy

from cloudmanager.cli.client.waiting import exported
from cloudmanager.client import Access, AsyncCloudManager, CloudManager
from cloudmanager.client.deploy import deploy
from cloudmanager.client.openrelik import preprocess

CALLS = {
    "export": lambda keywords: CloudManager().export("local:a.img", **keywords),
    "export of coroutines": lambda keywords: AsyncCloudManager().export("local:a.img", **keywords),
    "claim": lambda keywords: CloudManager().claim("local:a.img", **keywords),
    "wait": lambda keywords: CloudManager().wait("id", **keywords),
    "deploy": lambda keywords: deploy("a.img", Path("b.img"), **keywords),
    "preprocess": lambda keywords: preprocess([], **keywords),
    "the command line's": lambda keywords: exported("local:a.img", Access.READ_ONLY, **keywords).__enter__(),
}


@pytest.mark.parametrize("wrong", ["acess", "ttl", "read_only", "disk_id", "Access", "self2"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_unknown_keyword_is_a_type_error_before_anything_is_asked(
    call: Callable[[dict[str, str]], object], wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudmanager.cli.client.waiting.lasting_service", CloudManager)
    with pytest.raises(TypeError, match=wrong):
        call({wrong: "read-write"})


def test_it_says_what_may_have_been_meant() -> None:
    with pytest.raises(TypeError, match=r"export\(\) has no keyword 'ttl_secnds'; did you mean 'ttl_seconds'\?"):
        CloudManager().export("local:a.img", ttl_secnds=60)  # type: ignore[call-arg] # what is wrong


def test_type_checkers_say_it_too(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("""
from cloudmanager.client import AsyncCloudManager, CloudManager, ExportOptions
from cloudmanager.client.deploy import deploy

CloudManager().export("prod:a", "read-write", ttl_seconds=60, note="right")
CloudManager().export("prod:a", acess="read-write")
AsyncCloudManager().export("prod:a", acess="read-write")
CloudManager().claim("prod:a", acess="read-write")
kept: ExportOptions = {"acess": "read-write"}
deploy("a.img", "nbd://host/disk", overwrit=True)
""")
    said, trouble, status = mypy.run(["--strict", "--cache-dir", str(tmp_path / "cache"), str(program)])
    found = [line for line in said.splitlines() if ": error:" in line]
    assert (status, trouble) == (1, "")
    assert [int(line.split(":")[1]) for line in found] == [6, 7, 8, 9, 10]
    assert all("acess" in line or "overwrit" in line for line in found)
