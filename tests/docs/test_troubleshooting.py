"""docs/troubleshooting.md has every error that the service answers with and that the client raises."""

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest

import cloudmanager.client
from cloudmanager.api.problems import by_code
from cloudmanager.client.errors import BY_CODE, ClientError, ServiceError
from tests.checkout import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
ENTRIES = re.findall(r"^### `(\w+)`\n(.+?)\n(?=\n)", PAGE, re.MULTILINE | re.DOTALL)
CLASS_ROW = re.compile(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", re.MULTILINE)


def kinds(kind: type[ClientError]) -> Iterator[type[ClientError]]:
    for child in kind.__subclasses__():
        yield child
        yield from kinds(child)


def raised_by_the_client() -> set[str]:
    """Without the bases that are never raised as such, and without what the service answers."""
    for module in pkgutil.walk_packages(cloudmanager.client.__path__, "cloudmanager.client."):
        importlib.import_module(module.name)
    found = {kind for kind in kinds(ClientError) if kind.__module__.startswith("cloudmanager.client")}
    groups = {kind for kind in found if kind.__base__ is ClientError and kind.__subclasses__()}
    return {kind.__name__ for kind in found - groups if not issubclass(kind, ServiceError) and kind.__name__[0] != "_"}


def test_every_code_has_one_entry() -> None:
    codes = [code for code, _ in ENTRIES]
    assert len(codes) == len(set(codes))
    assert set(codes) == set(by_code())


def test_the_client_knows_every_code_of_the_page() -> None:
    assert {code for code, _ in ENTRIES} <= set(BY_CODE)


@pytest.mark.parametrize(("code", "text"), ENTRIES, ids=lambda value: value if value.isidentifier() else "")
def test_an_entry_says_something_in_sentences(code: str, text: str) -> None:
    assert re.fullmatch(r"[A-Zq].{30,}\.", " ".join(text.split())), code


def test_every_error_without_a_code_has_a_row() -> None:
    rows = CLASS_ROW.findall(PAGE)
    assert len(rows) == len(set(rows))
    assert set(rows) == raised_by_the_client()
