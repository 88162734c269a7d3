"""A package that `cloudmanager new-provider` writes is complete: it installs, is listed, and certifies itself."""

import json
import subprocess
import sys

import pytest

from tests.cli.conftest import CommandLine
from tests.examples.package import Installed, install


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    directory = tmp_path_factory.mktemp("new-provider") / "package"
    command = [sys.executable, "-m", "cloudmanager", "new-provider", "cold-store", str(directory)]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    return install(directory)


def test_it_passes_its_own_tests_as_it_was_written(written: Installed) -> None:
    report = written.run_tests()
    assert report.failed == report.errors == 0
    assert report.passed > 30


def test_plugins_lists_it(written: Installed, cli: CommandLine) -> None:
    (cli.directory / "cloudmanager.toml").write_text((written.directory / "cloudmanager.toml").read_text())
    shown = json.loads(cli("plugins", "--json", env=written.environment).stdout)
    (plugin,) = [plugin for plugin in shown["plugins"] if plugin["name"] == "cold-store"]
    assert (plugin["distribution"], plugin["provider_types"]) == ("cloudmanager-cold-store", ["cold-store"])
    assert shown["providers"] == {"cold": "cold-store"}


def test_its_settings_are_documented(written: Installed, cli: CommandLine) -> None:
    example = cli("config", "example", env=written.environment).stdout
    assert "cold-store" in example
    assert "Directory on a fast disk, for the copies." in example


def test_it_passes_the_linter_as_it_was_written(written: Installed) -> None:
    for arguments in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        paths = [str(written.directory / "cloudmanager_cold_store.py"), str(written.directory / "tests")]
        answer = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments, *paths], capture_output=True, text=True, timeout=60, check=False
        )
        assert answer.returncode == 0, answer.stdout


def test_nothing_is_overwritten(cli: CommandLine) -> None:
    (cli.directory / "mine").mkdir()
    (cli.directory / "mine" / "notes").write_text("keep")
    answer = cli("new-provider", "acme", "mine")
    assert answer.returncode == 1
    assert "mine is there already, and nothing is overwritten" in answer.stderr
    assert [path.name for path in (cli.directory / "mine").iterdir()] == ["notes"]


def test_without_a_directory_it_is_written_beside(cli: CommandLine) -> None:
    assert cli("new-provider", "acme").returncode == 0
    assert (cli.directory / "cloudmanager-acme" / "cloudmanager_acme.py").is_file()


@pytest.mark.parametrize("name", ["Acme", "3par", "a b", "../up", "a--b", "acme-", ""])
def test_a_name_that_cannot_be_one_is_refused(cli: CommandLine, name: str) -> None:
    answer = cli("new-provider", name)
    assert answer.returncode == 1
    assert "cannot be a provider's type" in answer.stderr
    assert list(cli.directory.iterdir()) == []


def test_the_name_of_a_plugin_that_is_installed_is_refused(cli: CommandLine) -> None:
    answer = cli("new-provider", "local")
    assert answer.returncode == 1
    assert "A plugin local is installed already, from cloudmanager" in answer.stderr
