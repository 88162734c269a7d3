"""The providers of the three clouds look alike, so that who knows one of them knows where things are in the others."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkout import ROOT

PROVIDERS = ROOT / "cloudmanager" / "providers"
CLOUDS = ("aws", "azure", "gce")
SHARED = frozenset(
    {
        *("api", "attaching", "copies", "detaching", "doctor", "errors", "facts", "listing", "locating", "machine"),
        *("machine_view", "provider", "resource_id", "settings", "wiring"),
    }
)
SOURCES = sorted([*PROVIDERS.rglob("*.py"), *(ROOT / "cloudmanager" / "testing").rglob("*.py")])
CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]+")


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_provider_has_the_files_of_its_siblings(cloud: str) -> None:
    assert {file.stem for file in (PROVIDERS / cloud).glob("*.py")} >= SHARED


def test_what_two_siblings_share_all_three_have() -> None:
    files = {cloud: {file.stem for file in (PROVIDERS / cloud).glob("*.py")} - {"__init__"} for cloud in CLOUDS}
    in_two = {name for name in set().union(*files.values()) if sum(name in names for names in files.values()) > 1}
    assert in_two - {"proof"} == SHARED  # Compute Engine keeps the request id of an attach: it needs no proof of ours


def test_no_provider_defers_its_annotations() -> None:
    assert [str(file) for file in SOURCES if "from __future__ import annotations" in file.read_text()] == []


def test_a_constant_is_private_where_no_other_module_uses_it() -> None:
    """And public where one does. Tests may look at either."""
    users = [file.read_text() for file in sorted((ROOT / "cloudmanager").rglob("*.py"))]
    tests = [
        file.read_text() for file in sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
    ]
    wrong = []
    for file in SOURCES:
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for name in constants(file):
            if name.startswith("_"):
                wrong += [f"{module}.{name}"] if is_used(module, name, users) else []
            elif not is_used(module, name, users + tests):
                wrong.append(f"{module}.{name}")
    assert wrong == []


def constants(file: Path) -> Iterator[str]:
    for statement in ast.parse(file.read_text()).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else targets
        yield from (target.id for target in targets if isinstance(target, ast.Name) and CONSTANT.fullmatch(target.id))


def is_used(module: str, name: str, sources: list[str]) -> bool:
    imported = re.compile(rf"from {re.escape(module)} import (?:\([^)]*|[^\n(]*)\b{name}\b")
    member = re.compile(rf"\b{module.rpartition('.')[2]}\.{name}\b")
    return any(name in text and (imported.search(text) or member.search(text)) for text in sources)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_provider_s_page_has_one_table_of_facts_with_source_and_date(cloud: str) -> None:
    page = (ROOT / "docs" / "providers" / f"{cloud}.md").read_text(encoding="utf-8")
    assert page.count("\n## Facts\n") == 1
    table = page.partition("\n## Facts\n")[2].partition("\n## ")[0]
    rows = [row.strip("| ").split(" | ") for row in table.splitlines() if row.startswith("| ")][1:]
    assert len(rows) >= 8
    for fact, source, read in rows:
        assert fact, rows
        assert source, fact
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", read), fact
