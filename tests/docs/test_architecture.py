"""The page that a newcomer reads first leads to places that exist."""

import re

import pytest

from tests.checkout import ROOT

PAGES = ("docs/architecture.md", "CONTRIBUTING.md", "SECURITY.md")
NAMED = [
    (page, path)
    for page in PAGES
    for path in re.findall(r"`((?:cloudmanager|tests)/[\w./]*)`", (ROOT / page).read_text())
]


def test_the_pages_name_places() -> None:
    assert len(NAMED) > 30


@pytest.mark.parametrize(("page", "path"), NAMED)
def test_a_place_that_is_named_exists(page: str, path: str) -> None:
    assert (ROOT / path).exists(), f"{page} names {path}"
