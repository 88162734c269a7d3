"""`pip install cloudmanager` without extras, made from the distributions that are installed here."""

import re
import sys
from importlib.metadata import Distribution, distribution, requires
from pathlib import Path

import pytest

import cloudmanager
from tests.cli.conftest import CommandLine


def _light_closure(name: str = "cloudmanager") -> dict[str, Distribution]:
    """The distributions that the requirements without extras lead to."""
    found: dict[str, Distribution] = {}
    wanted = [name]
    while wanted:
        dist = distribution(wanted.pop())
        if dist.name in found:
            continue
        found[dist.name] = dist
        lines = [line for line in requires(dist.name) or [] if ";" not in line]
        wanted += [re.match(r"[A-Za-z0-9._-]+", line).group(0) for line in lines]
    return found


@pytest.fixture
def light(tmp_path: Path) -> dict[str, str]:
    """An environment whose only packages are those."""
    site = tmp_path / "light"
    site.mkdir()
    for dist in _light_closure().values():
        for top in {file.parts[0] for file in dist.files if file.parts[0] not in ("..", "__pycache__")}:
            (site / top).symlink_to(str(dist.locate_file(top)))
    (site / "cloudmanager").symlink_to(Path(cloudmanager.__file__).parent)
    return {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}


def _command(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-m", "cloudmanager", *arguments)


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("token",), ("serve", "--help")], ids=" ".join)
def test_it_has_the_command_line(cli: CommandLine, light: dict[str, str], arguments: tuple[str, ...]) -> None:
    answer = cli(command=_command(*arguments), env=light)
    assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve",),
        ("demo",),
        ("doctor",),
        ("doctor", "--json"),
        ("plugins",),
        ("config", "check"),
        ("config", "example"),
    ],
    ids=" ".join,
)
def test_what_it_lacks_names_the_command_that_installs_it(
    cli: CommandLine, light: dict[str, str], arguments: tuple[str, ...]
) -> None:
    answer = cli(command=_command(*arguments), env=light)
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert "A part of cloudmanager is not installed" in answer.stderr
    assert "pip install 'cloudmanager[server]'" in answer.stderr
    assert "Traceback" not in answer.stderr
