"""What a check has found, for people and for scripts."""

import dataclasses
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from cloudmanager.cli.exits import Exit

if TYPE_CHECKING:
    from cloudmanager.core.model import Finding


def print_line(console: Console, text: Text, indent: int = 0) -> None:
    """Prints text wrapped and indented on a terminal, on one line elsewhere."""
    if console.is_terminal:
        console.print(Padding(text, (0, 0, 0, indent), expand=False))
    else:
        console.print(Text(" " * indent) + text, soft_wrap=True)


LOOKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "red")}


def report(findings: "Iterable[Finding]", as_json: bool) -> Exit:
    """Prints each finding at once; as JSON all of them at the end. PROBLEM if one of them is a problem."""
    seen = _print_json(findings) if as_json else _show(findings)
    return Exit.PROBLEM if any(finding.severity == "problem" for finding in seen) else Exit.OK


def _print_json(findings: "Iterable[Finding]") -> "list[Finding]":
    seen = list(findings)
    print(json.dumps({"findings": list(map(dataclasses.asdict, seen))}, indent=2))
    return seen


def _show(findings: "Iterable[Finding]") -> "list[Finding]":
    console = Console(highlight=False)
    seen = []
    for finding in findings:
        mark, style = LOOKS[finding.severity]
        print_line(console, Text.assemble((mark, style), " ", (finding.subject, "bold"), f": {finding.seen}"))
        if finding.advice:
            print_line(console, Text(finding.advice, style), indent=4)
        seen.append(finding)
    console.print(_summary(seen))
    return seen


def _summary(seen: "list[Finding]") -> str:
    problems, warnings = (sum(finding.severity == kind for finding in seen) for kind in ("problem", "warning"))
    if not problems and not warnings:
        return "\nEverything is in order."
    return f"\n{_count(problems, 'problem')}, {_count(warnings, 'warning')}."


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
