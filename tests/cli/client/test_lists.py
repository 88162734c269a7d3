"""Long lists: written as their pages come, without what takes a terminal's time for each row."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import pytest
from rich.table import Table

from cloudmanager.cli.client import output
from tests.cli.client.conftest import Run


def rows(number: int, asked: list[int] | None = None) -> Iterator[tuple[str, ...]]:
    for each in range(number):
        if asked is not None:
            asked.append(each)
        yield f"disk-{each}", "ü" * (each % 7), ""


def test_twenty_thousand_rows_are_lines_of_their_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Table, "add_row", lambda *_: pytest.fail("rich takes a third of a millisecond for each row"))
    output.print_table(("disk", "note", "more"), rows(20_000), "none")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 20_001
    assert lines[0] == "disk      note    more"
    assert lines[7] == "disk-6    üüüüüü"


def test_the_first_rows_are_written_before_the_last_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    seen: list[int] = []

    class Noting(io.StringIO):
        def write(self, text: str) -> int:
            seen.append(len(asked))
            return super().write(text)

    monkeypatch.setattr(sys, "stdout", Noting())
    output.print_table(("disk", "note", "more"), rows(5_000, asked), "none")
    assert seen[0] < 1_000
    assert len(asked) == 5_000


def test_no_row_is_said_beside_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("disk",), iter(()), "No disk was found.")
    assert capsys.readouterr() == ("", "No disk was found.\n")


def test_a_cell_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("disk",), iter([("a\nb\x1b[2J",)]), "none")
    assert capsys.readouterr().out == "disk\na\\nb\\x1b[2J\n"


def test_a_limit_asks_for_no_more_pages() -> None:
    asked: list[int] = []
    assert len(list(output.at_most(3, rows(1_000, asked)))) == 3
    assert asked == [0, 1, 2]


@pytest.mark.parametrize("command", ["disks", "exports"])
def test_at_most_so_many_are_shown(people: Run, command: str) -> None:
    people("release", people("export", "local:plain.img", "--json").stdout.split('"id": "')[1][:24])
    more = ("--all",) if command == "exports" else ()
    answer = people(command, "--limit", "1", *more)
    assert answer.returncode == 0
    assert len(answer.stdout.splitlines()) == 2
    assert people(command, "--limit", "-1").returncode == 2
