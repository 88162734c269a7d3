"""Whoever follows one operation opens few files: see `reading_path` for what is counted."""

from pathlib import Path

import pytest

from tests.docs.reading_path import OPERATIONS, Step

MOST = {"deploy": 17, "export": 14, "post": 33}


@pytest.mark.parametrize("operation", MOST)
def test_an_operation_is_followed_through_few_files(operation: str, tmp_path: Path) -> None:
    steps = OPERATIONS[operation](tmp_path)
    carrying = [step.file for step in steps if step.carries_on]
    assert len(carrying) > MOST[operation] // 2, "it was not followed to its end"
    assert len(carrying) <= MOST[operation], carrying


def test_an_export_enters_few_files_in_all(tmp_path: Path) -> None:
    steps: list[Step] = OPERATIONS["export"](tmp_path)
    assert "client/transport.py" in [step.file for step in steps]
    assert len(steps) <= MOST["export"], [step.file for step in steps]
