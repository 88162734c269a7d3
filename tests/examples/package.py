"""Builds a package as its users do, installs it into a directory of its own, and runs its tests against that."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

PIP = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")


@dataclass(frozen=True)
class Report:
    """How the tests of a package ended."""

    passed: int
    skipped: int
    failed: int
    errors: int
    reasons: frozenset[str]
    """Of what was skipped."""


@dataclass(frozen=True)
class Installed:
    """A package's own directory, and a directory that has it installed."""

    directory: Path
    site: Path

    @property
    def environment(self) -> Mapping[str, str]:
        return {"PYTHONPATH": str(self.site), "PYTHONDONTWRITEBYTECODE": "1"}

    def run_tests(self) -> Report:
        """-P keeps the package's source off the path: what is tested is what was installed."""
        file = self.directory / "report.xml"
        places = [f"--junit-xml={file}", f"--basetemp={self.directory / 'tmp'}"]  # what is left there is ours to notice
        plugins = ["-p", "no:cacheprovider", "-p", "no:schemathesis"]  # of ours, theirs uses neither
        command = [sys.executable, "-P", "-m", "pytest", "-q", *plugins, *places]
        subprocess.run(command, cwd=self.directory, env={**os.environ, **self.environment}, timeout=110, check=False)
        return _read(file)


def install(directory: Path) -> Installed:
    """Raises CalledProcessError when it cannot be built."""
    site = directory / "site"
    subprocess.run([sys.executable, *PIP, f"--target={site}", "."], cwd=directory, check=True, timeout=110)
    return Installed(directory, site)


def _read(file: Path) -> Report:
    suite = ElementTree.parse(file).getroot()[0]  # noqa: S314 - written by pytest a moment ago
    failed, errors, skipped = (int(suite.attrib[name]) for name in ("failures", "errors", "skipped"))
    reasons = frozenset(each.attrib["message"] for each in suite.iter("skipped"))
    return Report(int(suite.attrib["tests"]) - failed - errors - skipped, skipped, failed, errors, reasons)
