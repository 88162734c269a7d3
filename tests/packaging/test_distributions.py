"""What is built from a checkout has the project in it, and nothing of whoever works there."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.checkout import ROOT

NEEDED = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile")
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".cache", ".hypothesis", "__pycache__", "dist")


def _checkout(directory: Path) -> Path:
    """A copy of this one, in which somebody has followed the README and the quick start."""
    shutil.copytree(ROOT, directory, ignore=NOT_COPIED, symlinks=True)
    for private in ("images/web01.qcow2", "state/cloudmanager.sqlite", "cloudmanager.toml", "my.token", "disk.raw"):
        (directory / private).parent.mkdir(exist_ok=True)
        (directory / private).write_bytes(b"evidence")
    return directory


def test_a_source_distribution_holds_no_image_no_store_and_no_token(tmp_path: Path) -> None:
    checkout = _checkout(tmp_path / "checkout")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path / "dist")]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    (archive,) = (tmp_path / "dist").iterdir()
    with tarfile.open(archive) as tar:
        members = {name.partition("/")[2]: name for name in tar.getnames()}
        contents = [tar.extractfile(member) for member in tar.getmembers() if member.isfile()]
        assert not [file for file in contents if file and file.read() == b"evidence"]
    assert set(NEEDED) <= members.keys()
    assert "cloudmanager/core/manager.py" in members
    assert "tests/packaging/test_distributions.py" in members
