"""docs/worker-guide.md: its examples run as they stand, and it names what there is."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager.client.errors import LostReason
from cloudmanager.client.kept_disk import ExportOptions
from tests.checkout import ROOT
from tests.client.daemon import Daemon
from tests.waiting import BOUND

PAGE = ROOT / "docs" / "worker-guide.md"
TEXT = PAGE.read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def prod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A service whose provider `prod` has the disk `evidence-7`."""
    directory = tmp_path_factory.mktemp("prod")
    daemon = Daemon(directory)
    daemon.tables["providers"] = {"prod": {"type": "local", "images": [str(directory / "images")]}}
    daemon.image("evidence-7")
    daemon.started()
    yield daemon
    daemon.end()


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_works_as_it_stands(prod: Daemon, tmp_path: Path, example: str) -> None:
    environment = {**os.environ, "CLOUDMANAGER_URL": prod.url}
    command = [sys.executable, "-W", "error", "-c", example]
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=BOUND, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert {export["state"] for export in prod.exports()} <= {"closing", "closed"}
    assert list(tmp_path.iterdir()) == []


def test_all_of_them_were_found() -> None:
    assert len(EXAMPLES) == TEXT.count("```python") == 9


@pytest.mark.parametrize("word", [*ExportOptions.__annotations__, *LostReason])
def test_every_keyword_and_every_reason_is_explained(word: str) -> None:
    assert re.search(rf"`{word}\b", TEXT)
