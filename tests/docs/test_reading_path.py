"""Whoever follows one operation opens few files: see `reading_path` for what is counted."""

from pathlib import Path

import pytest

from tests.docs.reading_path import OPERATIONS

MOST = {"deploy": 17, "export": 14, "post": 33}
LAST = {"deploy": "transfer/libnbd.py", "export": "client/transport.py", "post": "core/nbd/engines.py"}
"""A file in which the operation reaches what it is for."""


@pytest.mark.parametrize("operation", MOST)
def test_an_operation_is_followed_through_few_files(operation: str, tmp_path: Path) -> None:
    steps = OPERATIONS[operation](tmp_path)
    assert LAST[operation] in [step.file for step in steps], "it was not followed to its end"
    carrying = [step.file for step in steps if step.carries_on]
    assert len(carrying) <= MOST[operation], " ".join(carrying)
    if operation == "export":  # all that it enters, leaves too
        assert len(steps) <= MOST[operation], " ".join(step.file for step in steps)
