"""The page about the ways does what it says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

import benchmarks.access_methods
from cloudmanager.client.access_methods import AccessMethod
from cloudmanager.client.access_methods.mounting import NO_REPLAY
from cloudmanager.client.access_methods.record import RUN_DIRECTORY
from tests.checkout import ROOT
from tests.client.access_methods.serving import Serving

PAGE = (ROOT / "docs/access-methods.md").read_text()


def test_the_example_works_as_it_stands(serving: Serving, raw: Path) -> None:
    example = re.search(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert example
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(example[1].replace("nbd://127.0.0.1:10900/NAME", serving.address(raw).uri), {})  # noqa: S102 - our page
    assert printed.getvalue().splitlines()[0] in set(AccessMethod)


def test_every_option_that_leaves_a_journal_alone_is_named() -> None:
    for kind in ("ext3", "ext4", "xfs", "btrfs"):
        assert f"`{NO_REPLAY[kind][0]}`" in PAGE


def test_the_environment_variable_is_named() -> None:
    assert f"`{RUN_DIRECTORY}`" in PAGE


def test_the_benchmark_finds_its_two_tables_in_the_page() -> None:
    rows = [benchmarks.access_methods.Row("all of it, dd", "file", 1.2345, 6.78)]
    tables = [benchmarks.access_methods.table(f"Taken on a machine {number}.", rows) for number in (1, 2)]
    page = benchmarks.access_methods.filled(PAGE, tables)
    assert page.count("| all of it, dd | file | 1.234 | 6.8 |\n") == 2
    assert benchmarks.access_methods.filled(page, tables) == page
    without = re.sub(r"^(\|.*|Taken on .*)\n", "", PAGE, flags=re.MULTILINE).split()
    assert re.sub(r"^(\|.*|Taken on .*)\n", "", page, flags=re.MULTILINE).split() == without


@pytest.mark.parametrize("method", ["device", "file", "file, TLS", "stub"])
def test_every_way_is_measured(method: str) -> None:
    assert f" | {method} | " in PAGE
