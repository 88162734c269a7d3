"""The pages: links lead somewhere, examples work as they stand, words are those of the glossary."""

import json
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import httpx
import pytest
from markdown_it import MarkdownIt

from cloudmanager.core import settings
from cloudmanager.core.model import ExportState
from tests.checkout import ROOT
from tests.ports import free_port
from tests.waiting import eventually

PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        *(ROOT / "docs").rglob("*.md"),
    ]
)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(#[^)\s]*)?\)")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
NOT_OUR_WORDS = re.compile(
    r"\b(lease[sd]?|tickets?|shares? of|patience|let go|lets go of|it is tried again|for who)\b", re.IGNORECASE
)
"""Terms that the glossary has another one for, and turns of phrase that were taken out of every page."""
A_HASH = "0" * 64


def blocks(page: Path, language: str) -> list[str]:
    return [body for found, body in BLOCK.findall(page.read_text()) if found == language]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{named(page)} links to {target}"
        if anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor[1:] in {_slug(heading) for heading in headings}, f"{named(page)}: {target}{anchor}"


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_row_of_a_table_is_in_a_table(page: Path) -> None:
    assert stray_rows(page.read_text()) == []


@pytest.mark.parametrize(
    "rows",
    [
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n| 3 | 4 |",
        "| 3 | 4 |",
        "- an item\n\n  | 3 | 4 |",
        "| a | b |\n|---|---|\n| 1 | 2 | 3 |",
        "| a | b |\n|---|---|\n| `1|2` | 3 |",
    ],
)
def test_a_row_outside_of_a_table_is_found(rows: str) -> None:
    assert stray_rows(f"Text.\n\n{rows}\n\nText.\n") != []


def stray_rows(text: str) -> list[str]:
    """Rows that a reader's program shows as text, and rows with other cells than their table's head."""
    lines = text.splitlines()
    stray: list[str] = []
    cells = 0
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(text):
        if token.type == "inline" and token.map and token.level and not token.content.startswith("!["):
            stray += [line for line in token.content.splitlines() if line.startswith("|")]
        if token.type == "tr_open" and token.map:
            row = lines[token.map[0]]
            bars = len(re.findall(r"(?<!\\)\|", row.strip().strip("|")))
            cells = bars if token.map[0] in heads_of(text) else cells
            stray += [row] if bars != cells else []
    return stray


@cache
def heads_of(text: str) -> set[int]:
    """The lines, from 0, on which a table begins."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    return {token.map[0] for token in tokens if token.type == "table_open" and token.map}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_configuration_shown_is_valid(page: Path) -> None:
    for block in blocks(page, "toml"):
        if "[build-system]" not in block:
            tables = tomllib.loads(block.replace('"…"', f'"{A_HASH}"'))
            settings.from_tables(tables, named(page))


def test_the_index_has_every_page_once_under_one_kind() -> None:
    text = (ROOT / "docs" / "index.md").read_text()
    kinds = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert [kind.splitlines()[0] for kind in kinds] == ["Tutorial", "How-to guides", "Reference", "Explanation"]
    linked = re.findall(r"\]\(([\w./-]+)\)", text)
    assert len(linked) == len(set(linked))
    pages = {named(page) for page in PAGES if "examples" not in page.parts} - {"README.md", "docs/index.md"}
    assert {named((ROOT / "docs" / target).resolve()) for target in linked} == pages


def test_the_readme_leads_to_the_index() -> None:
    assert "(docs/index.md)" in (ROOT / "README.md").read_text()


def test_the_concepts_name_every_state_of_an_export() -> None:
    text = (ROOT / "docs" / "concepts.md").read_text()
    for state in ExportState:
        assert f"`{state}`" in text


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_page_uses_the_words_of_the_glossary(page: Path) -> None:
    if "providers" in page.parts:
        return  # a cloud's own page uses the cloud's own words
    prose = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
    assert NOT_OUR_WORDS.findall(prose) == []


def test_the_readmes_example_works_as_it_stands(tmp_path: Path) -> None:
    port = free_port()
    example = next(block for block in blocks(ROOT / "README.md", "sh") if "serve &" in block)
    example = example.replace("8600", str(port))
    example = example.replace("[server]", f'[server]\nlisten = "127.0.0.1:{port}"').replace("make setup", "true")
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    script = f"{example}\necho\nread -r _ || true\nkill %1\nwait"
    command = ["bash", "-mc", script]
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as shell:
        assert shell.stdout is not None
        export = json.loads(next(line for line in shell.stdout if line.startswith("{")))
        assert (export["state"], export["size_bytes"], export["format"]) == ("ready", 64 << 20, "qcow2")
        size = subprocess.run(["nbdinfo", "--size", export["uri"]], capture_output=True, text=True, check=True)
        assert int(size.stdout) == 64 << 20
        release(f"http://127.0.0.1:{port}/v1/exports/{export['id']}")
        shell.communicate("\n", timeout=30)


def release(url: str) -> None:
    with httpx.Client(trust_env=False) as client:
        client.delete(url).raise_for_status()
        eventually(lambda: client.get(url).json()["state"] == "closed")
