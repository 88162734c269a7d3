"""A keyword that does not exist is refused, by type checkers and at run time: it may be `access`, misspelled."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cloudmanager.cli.client.waiting import exported
from cloudmanager.client import Access, AsyncCloudManager, CloudManager, ExportOptions
from cloudmanager.client.deploy import deploy
from cloudmanager.client.deploy.errors import SourceError
from cloudmanager.client.openrelik import preprocess
from cloudmanager.client.service import Service, UploadEndpoint

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


def _type_checkers_say_it_too() -> None:
    """Nothing runs this. `make types` fails when a line with a remark has no such error, or another one has."""
    CloudManager().export("prod:a", "read-write", ttl_seconds=60, note="right")
    CloudManager().export("prod:a", acess="read-write")  # type: ignore[call-arg]
    AsyncCloudManager().export("prod:a", acess="read-write")  # type: ignore[call-arg]
    CloudManager().claim("prod:a", acess="read-write")  # type: ignore[call-arg]
    _kept: ExportOptions = {"acess": "read-write"}  # type: ignore[typeddict-unknown-key]
    deploy("a.img", "nbd://host/disk", overwrit=True)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", [CloudManager, AsyncCloudManager])
def test_the_old_name_of_the_retry_budget_works_and_warns(kind: type[CloudManager] | type[AsyncCloudManager]) -> None:
    with pytest.warns(DeprecationWarning, match="`retry_seconds`") as warned:
        old = kind(patience_seconds=7)
    assert vars(old)["_retry_seconds"] == vars(kind(retry_seconds=7))["_retry_seconds"] == 7
    assert warned[0].filename == __file__


def test_the_old_name_of_upload_via_works_and_warns(tmp_path: Path) -> None:
    endpoint = UploadEndpoint(Service.of("http://127.0.0.1:1", None), "id")
    with pytest.warns(DeprecationWarning, match="`upload_via`") as warned, pytest.raises(SourceError):
        deploy(tmp_path / "no-such-image", tmp_path / "target", through=endpoint)
    assert warned[0].filename == __file__
