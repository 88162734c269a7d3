"""The packages of docs/examples are built, installed, and pass their own tests."""

import shutil
from pathlib import Path

import pytest

from cloudmanager.cli.new_provider import package
from tests.checkout import ROOT
from tests.examples.package import Report, install

EXAMPLES = ROOT / "docs" / "examples"


def certify(name: str, directory: Path) -> Report:
    return install(Path(shutil.copytree(EXAMPLES / name, directory / name))).run_tests()


def test_the_provider_passes_the_conformance_suite(tmp_path: Path) -> None:
    report = certify("cloudmanager-archive", tmp_path)
    assert report.failed == report.errors == 0
    assert report.passed > 30
    assert all(reason.startswith("declared not to apply: ") for reason in report.reasons)


@pytest.mark.parametrize(
    "name", ["cloudmanager-evidence-policy", pytest.param("cloudmanager-attach-meter", marks=pytest.mark.slow)]
)
def test_a_plugin_that_is_no_provider_passes_its_tests(name: str, tmp_path: Path) -> None:
    report = certify(name, tmp_path)
    assert report.failed == report.errors == report.skipped == 0
    assert report.passed >= 3


def test_the_provider_is_what_new_provider_writes() -> None:
    """So the example, the page and the template are one text."""
    directory = EXAMPLES / "cloudmanager-archive"
    assert {path: (directory / path).read_text() for path in _files(directory)} == package("archive")


def _files(directory: Path) -> list[Path]:
    """Without what tools leave behind."""
    found = [path.relative_to(directory) for path in directory.rglob("*") if path.is_file()]
    return [path for path in found if not any(part.startswith((".", "__")) for part in path.parts)]
