"""docs/http-api.md says what the service does: its examples run, its tables are the code's."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager.api.answers import Disk, Export, Problem
from cloudmanager.api.problems import STATUS, by_code
from cloudmanager.api.routes import router
from cloudmanager.transfer.frames import Encoding, Frame
from tests.api.service import Service, running, settings_for
from tests.checkout import ROOT

GUIDE = (ROOT / "docs" / "http-api.md").read_text()
ADDRESS = "http://127.0.0.1:8600"
EXPORT_ID = "019a1b2c3d4e5f60718293a4"
FORBIDDEN = {"volume", "mount", "session", "handle", "share", "ticket"}
"""Words that the glossary does not have."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """One per example; a command goes on after a backslash."""
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    assert all(line.startswith("curl ") for line in lines)
    return lines


@pytest.fixture(scope="module")
def followed(directory: Path) -> Iterator[Service]:
    server = {"state_dir": str(directory / "followed"), "node": "worker-1"}
    with running(settings_for(directory, server=server)) as service:
        yield service


def test_every_example_works(followed: Service, tmp_path: Path) -> None:
    export_id = followed.export("local:web01.qcow2", "scratch")["id"]
    (tmp_path / "frames").write_bytes(Frame(0, 5, Encoding.RAW, b"hello").packed())
    for command in commands():
        here = command.replace(ADDRESS, followed.url).replace(EXPORT_ID, str(export_id))
        ran = subprocess.run(
            ["sh", "-c", f"{here} --fail-with-body"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, f"{here}\n{ran.stdout}{ran.stderr}"


def test_every_route_has_an_example() -> None:
    called = {method_and_path(command) for command in commands()}
    for route in router.routes:
        pattern = re.sub(r"\{[^}]+\}", "[^?]+", route.path_format)  # type: ignore[attr-defined]
        (method,) = route.methods  # type: ignore[attr-defined]
        assert any(method == asked and re.fullmatch(pattern, path) for asked, path in called), route


def method_and_path(command: str) -> tuple[str, str]:
    explicit = re.search(r"-X (\w+)", command)
    method = explicit[1] if explicit else "POST" if re.search(r" (-d|--data-binary) ", command) else "GET"
    path = re.search(rf"{re.escape(ADDRESS)}([^\s'?]*)", command)
    assert path
    return method, path[1]


@pytest.mark.parametrize(("at", "model"), [(0, Export), (1, Disk), (2, Problem)])
def test_the_shown_answers_have_the_fields_that_answers_have(at: int, model: type[Export | Disk | Problem]) -> None:
    shown = json.loads(blocks("json")[at])
    assert list(shown) == list(model.model_fields)
    model.model_validate(shown)


def test_the_table_of_errors_is_that_of_the_code() -> None:
    table = GUIDE.partition("| Code | Status |")[2].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    expected = [
        [f"[`{code}`](troubleshooting.md#{code})", str(STATUS[kind]), "yes" if kind.retriable else "no", kind.title]
        for code, kind in by_code().items()
    ]
    assert rows == expected


def test_it_uses_the_words_of_the_glossary() -> None:
    assert not FORBIDDEN & set(re.findall(r"[a-z]+", GUIDE.lower()))


def test_every_anchor_exists() -> None:
    headings = {
        re.sub(r"[^a-z -]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^##+ (.*)$", GUIDE, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", GUIDE)) <= headings
