"""A version is written in one place, and the changelog has its section."""

import re
import subprocess
import sys
import tomllib
from datetime import date

import cloudmanager
from tests.checkout import ROOT

CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
SECTIONS = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
GROUPS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_newest_section_is_of_this_version_and_has_a_date() -> None:
    assert SECTIONS[0] == "Unreleased"
    version, _, day = SECTIONS[1].partition(" - ")
    assert version == cloudmanager.__version__
    date.fromisoformat(day)


def test_changes_are_grouped() -> None:
    assert set(re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE)) <= GROUPS


def test_the_command_line_prints_it() -> None:
    command = [sys.executable, "-m", "cloudmanager", "--version"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == f"cloudmanager {cloudmanager.__version__}\n"


def test_the_project_writes_it_nowhere_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" in project["dynamic"]
    assert project["authors"]
    assert {"Homepage", "Documentation", "Issues", "Changelog"} <= project["urls"].keys()
