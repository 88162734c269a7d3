"""The page about it: its examples run, and it tells of every option."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cloudmanager.client.deploy import DeployOptions, Options
from tests.checkout import ROOT
from tests.client.deploy import images

PAGE = (ROOT / "docs" / "deploy.md").read_text()


@pytest.fixture
def system(tmp_path: Path) -> Path:
    raw = images.sparse_image(tmp_path / "image.raw", 12 * images.MIB)
    images.converted(raw, "qcow2", "system.qcow2")
    return raw


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_examples_work_as_they_stand(system: Path, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "XDG_STATE_HOME": str(tmp_path)}
    for command in (["sh", "-ec", *_blocks("sh")], [sys.executable, "-c", *_blocks("python")]):
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
        assert images.same(system, tmp_path / "disk.raw")


def test_every_option_of_the_command_is_described() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "cloudmanager", "deploy", "--help"], capture_output=True, text=True, check=True
    )
    options = set(re.findall(r"(?<![\w-])--[a-z-]+", answer.stdout)) - {"--help", "--holder", "--resume"}
    assert {option for option in options if f"`{option}" not in PAGE} == set()


def test_the_keywords_of_deploy_are_the_fields_of_options() -> None:
    assert set(DeployOptions.__annotations__) == {field.name for field in dataclasses.fields(Options)}
