"""The page of promises names tests that exist."""

import re

import pytest

from tests.checkout import ROOT

NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs" / "promises.md").read_text())


def test_the_page_names_tests() -> None:
    assert len(NAMED) > 30


@pytest.mark.parametrize(("file", "test"), NAMED, ids="::".join)
def test_a_promise_is_proved_by_a_test_that_exists(file: str, test: str) -> None:
    code = (ROOT / file).read_text()
    assert re.search(rf"^(?:async )?def {test or 'test_'}", code, re.MULTILINE), f"{file} has no {test}"
