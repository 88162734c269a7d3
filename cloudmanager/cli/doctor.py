"""cloudmanager doctor"""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from cloudmanager.cli import configuration
from cloudmanager.cli.exits import Exit
from cloudmanager.cli.extras import extra
from cloudmanager.cli.lines import print_line
from cloudmanager.core.errors import SetupError

if TYPE_CHECKING:
    from cloudmanager.core.model import Finding

LOOKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "red")}


def run(config: Path | None, as_json: bool) -> Exit:
    """Looks at everything, and shows each finding as soon as it is there. PROBLEM if any of them is one."""
    with extra("server"):
        import cloudmanager.core.doctor  # noqa: F401 - says at once that the server part is missing
    findings = _examine(config)
    seen = _print_json(findings) if as_json else _show(findings)
    return Exit.PROBLEM if any(finding.severity == "problem" for finding in seen) else Exit.OK


def _examine(config: Path | None) -> "Iterator[Finding]":
    """The configuration first. One that is not valid is a finding, and the defaults are looked at in its place."""
    from cloudmanager.core.doctor import examine
    from cloudmanager.core.model import Finding, Severity
    from cloudmanager.core.settings import Settings

    settings = Settings.model_construct()
    try:
        path = configuration.find(config)
        settings = configuration.load(path)
        plugins = configuration.load_plugins(settings)
    except SetupError as error:
        yield Finding("configuration", Severity.PROBLEM, error.detail, "`cloudmanager config check` tries it again.")
        yield from examine(settings, ())
    else:
        yield Finding("configuration", Severity.OK, str(path) if path else "no file: the defaults")
        yield from examine(settings, plugins)


def _print_json(findings: "Iterable[Finding]") -> "list[Finding]":
    seen = list(findings)
    print(json.dumps({"findings": list(map(dataclasses.asdict, seen))}, indent=2, ensure_ascii=False))
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
