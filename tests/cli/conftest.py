"""Runs the command line as a person would: as a process of its own."""

import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

PLUGIN = '''
from pathlib import Path
from pydantic import BaseModel, Field
from cloudmanager import AttachPlan, Attachment, Finding, Node, NotAttached, Page, Severity, errors, hookimpl


class Shelf:
    """Disks on a shelf."""

    type = "shelf"

    class Settings(BaseModel):
        """Disks that lie on a shelf."""

        room: str = Field(description="Where the shelf is.", json_schema_extra={"example": "cellar"})
        boards: int = Field(3, ge=1, le=9, description="How many boards it has.")
        labels: tuple[str, ...] = Field((), description="Written on it.", json_schema_extra={"example": ["a|b"]})
        keeper: str | None = Field(None, description="Who looks after it.")

    def __init__(self, name, settings):
        self.name, self.settings = name, settings

    @hookimpl
    def node(self):
        if self.settings.room == "nowhere":
            raise errors.AccessDenied("The key of the room does not fit; ask its keeper.")
        return Node(name="worker-7", location=self.settings.room)

    @hookimpl
    def diagnose(self):
        return [Finding("the shelf's screws", Severity.WARNING, "loose", "Tighten them.")]

    @hookimpl
    def describe(self, disk_id): ...
    @hookimpl
    def find(self, query, page_token): ...
    @hookimpl
    def plan_attach(self, disk, access): ...
    @hookimpl
    def attach(self, plan): ...
    @hookimpl
    def locate(self, disk): ...
    @hookimpl
    def detach(self, attachment): ...


@hookimpl
def register_providers():
    return [Shelf]


@hookimpl
def authorize(request): ...


@hookimpl(wrapper=True)
def locate(provider):
    return (yield)
'''


def worked_seconds() -> float:
    """Processor time of processes that have ended, whatever else the processors had to do meanwhile."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class CommandLine:
    """`cli("config", "check", env={…})`, without this shell's CLOUDMANAGER_… variables."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        """In which it runs: where a test puts ./cloudmanager.toml."""

    def __call__(
        self, *arguments: str, env: Mapping[str, str] | None = None, command: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDMANAGER_")}
        return subprocess.run(
            command or (sys.executable, "-m", "cloudmanager", *arguments),
            cwd=self.directory,
            env={**kept, "COLUMNS": "200", **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    """The command line in an empty directory."""
    here = tmp_path / "here"
    here.mkdir()
    return CommandLine(here)


@pytest.fixture
def third_party(tmp_path: Path) -> dict[str, str]:
    """The environment in which a distribution with a plugin is installed: a provider type, a policy and a wrapper."""
    site = tmp_path / "site"
    metadata = site / "cloudmanager_shelf-1.2.dist-info"
    metadata.mkdir(parents=True)
    (site / "cloudmanager_shelf.py").write_text(PLUGIN)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: cloudmanager-shelf\nVersion: 1.2\n")
    (metadata / "entry_points.txt").write_text("[cloudmanager.plugins]\nshelf = cloudmanager_shelf\n")
    return {"PYTHONPATH": str(site)}
