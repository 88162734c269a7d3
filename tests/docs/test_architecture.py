"""The page that a newcomer reads first leads to places that exist, and its call chains are short."""

import re

import pytest

from tests.checkout import ROOT
from tests.docs.test_reading_path import MOST

PAGES = ("docs/architecture.md", "docs/design.md", "CONTRIBUTING.md", "SECURITY.md")
NAMED = [
    (page, path)
    for page in PAGES
    for path in re.findall(r"`((?:cloudmanager|tests)/[\w./]*)`", (ROOT / page).read_text())
]
CHAINS = dict(
    zip(
        MOST, (ROOT / "docs/architecture.md").read_text().partition("## Three call")[2].split("\n### ")[1:], strict=True
    )
)


def test_the_pages_name_places() -> None:
    assert len(NAMED) > 80


@pytest.mark.parametrize(("page", "path"), NAMED)
def test_a_place_that_is_named_exists(page: str, path: str) -> None:
    assert (ROOT / path).exists(), f"{page} names {path}"


@pytest.mark.parametrize("operation", MOST)
def test_a_chain_has_each_file_once_and_few(operation: str) -> None:
    steps = re.findall(r"^(\d+)\. `(cloudmanager/[\w/]+\.py)`: .+$", CHAINS[operation], re.MULTILINE)
    assert [int(number) for number, _ in steps] == list(range(1, len(steps) + 1))
    assert len({file for _, file in steps}) == len(steps)
    assert MOST[operation] - 3 <= len(steps) <= MOST[operation]


def test_every_package_is_on_a_floor() -> None:
    floors = (ROOT / "docs/architecture.md").read_text().partition("## Two loops")[0]
    packages = {path.parent.name for path in (ROOT / "cloudmanager").glob("*/__init__.py")}
    assert {package for package in packages if f"`cloudmanager/{package}/`" not in floors} == set()
