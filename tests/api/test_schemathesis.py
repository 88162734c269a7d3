"""Requests that nobody would think of, made from the OpenAPI document, against the real service.

All of schemathesis' phases: the document's examples, each constraint just kept and just broken, random requests, and
sequences that follow the document's links. Its command line and not its pytest plugin, which lacks the first two.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.service import Service, running, settings_for

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")


@pytest.fixture
def tried(directory: Path, tmp_path: Path) -> Iterator[Service]:
    with running(settings_for(directory, server={"state_dir": str(tmp_path)})) as service:
        yield service


@pytest.mark.longest
@pytest.mark.parametrize("examples", [5, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_every_answer_is_as_documented(tried: Service, tmp_path: Path, examples: int) -> None:
    command = [
        str(Path(sys.executable).with_name("st")),
        "--config-file",
        str(CONFIGURATION),
        "run",
        f"--max-examples={examples}",
        f"{tried.url}/openapi.json",
    ]
    ran = subprocess.run(
        [*command, "--no-color"], cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr

    operations = re.search(r"(\d+) selected / (\d+) total", ran.stdout)
    links = re.search(r"API Links:\s+(\d+) covered / (\d+) selected", ran.stdout)
    assert operations
    assert operations[1] == operations[2]
    assert links
    assert int(links[1]) >= 10
    events = {event.event for event in tried.manager.audit(limit=1000).items}
    assert events >= {"export.claimed", "export.ready", "export.renewed", "export.closed"}
