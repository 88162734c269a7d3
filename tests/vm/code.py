"""The disk with the code under test, for the test machine."""

import subprocess
import sys
from pathlib import Path

from tests.checkout import ROOT

IMAGE = ROOT / ".cache/guest"
"""Where kernel and root disk are kept, once they are made."""
RUN_SECONDS = 1800
"""A Debian is downloaded and unpacked."""


def run(*command: str | Path) -> None:
    arguments = list(map(str, command))
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=ROOT, timeout=RUN_SECONDS)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


def make_image() -> Path:
    """Kernel and root disk, made once and kept: a minute or three the first time."""
    run("scripts/make-guest-image", IMAGE)
    return IMAGE


def make_code(directory: Path, *more: Path) -> Path:
    """A file system with cloudmanager as it is now, installed from its wheel: entry points and all.

    `more` are files of this repository, which keep their places.
    """
    site = directory / "site"
    pip = (sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", directory, ROOT)
    run(*pip, "install", "--no-deps", "--target", site, next(directory.glob("*.whl")))
    for file in more:
        target = site / file.relative_to(ROOT)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(file.read_bytes())
    run("mke2fs", "-t", "ext4", "-O", "^has_journal", "-d", site, directory / "code.ext4", "32M")
    return directory / "code.ext4"
