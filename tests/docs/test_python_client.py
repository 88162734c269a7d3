"""docs/python-client.md is made from the docstrings, and has every public name."""

import importlib
import re

import pytest

from scripts import python_client_page
from tests.checkout import ROOT

PAGE = (ROOT / "docs" / "python-client.md").read_text()


def test_the_page_is_in_step_with_the_code() -> None:
    assert python_client_page.page() == PAGE, "run `make docs`"


@pytest.mark.parametrize("module", python_client_page.MODULES)
def test_every_public_name_has_its_place(module: str) -> None:
    for name in importlib.import_module(module).__all__:
        assert name == "errors" or re.search(rf"^### {name}$|\b{name}\b", PAGE, re.MULTILINE), name


@pytest.mark.parametrize("module", python_client_page.ERRORS)
def test_every_error_is_in_its_tree(module: str) -> None:
    found = importlib.import_module(module)
    own = [each for each in vars(found).values() if isinstance(each, type) and issubclass(each, Exception)]
    for kind in own:
        assert re.search(rf"^[│├└─ ]*{kind.__name__}\b", PAGE, re.MULTILINE), kind


def test_no_docstring_is_of_a_base_or_made_up() -> None:
    assert "Enum where members are also" not in PAGE
    assert not re.search(r"^\w+\(\w+: .*\)$", PAGE, re.MULTILINE)
