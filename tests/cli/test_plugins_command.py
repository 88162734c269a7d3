import json
import subprocess
from importlib.metadata import version
from pathlib import Path

from tests.cli.conftest import CommandLine

SHELF = '[providers.s]\ntype = "shelf"\nroom = "cellar"\n'


def _plugins(answer: subprocess.CompletedProcess[str]) -> dict[str, dict[str, object]]:
    assert answer.returncode == 0, answer.stderr
    return {plugin["name"]: plugin for plugin in json.loads(answer.stdout)["plugins"]}


def test_the_built_in_plugins_come_from_this_distribution(cli: CommandLine) -> None:
    local = _plugins(cli("plugins", "--json"))["local"]
    assert (local["distribution"], local["version"]) == ("cloudmanager", version("cloudmanager"))


def test_a_third_party_plugin_shows_what_it_offers_answers_and_wraps(
    cli: CommandLine, third_party: dict[str, str]
) -> None:
    shelf = _plugins(cli("plugins", "--json", env=third_party))["shelf"]
    assert shelf == {
        "name": "shelf",
        "distribution": "cloudmanager-shelf",
        "version": "1.2",
        "provider_types": ["shelf"],
        "hooks": ["authorize", "register_providers"],
        "wraps": ["locate"],
    }


def test_the_configured_providers_are_shown_with_their_types(cli: CommandLine, third_party: dict[str, str]) -> None:
    (cli.directory / "cloudmanager.toml").write_text(SHELF)
    assert json.loads(cli("plugins", "--json", env=third_party).stdout)["providers"] == {"s": "shelf"}


def test_the_table_has_the_same_facts(cli: CommandLine, third_party: dict[str, str]) -> None:
    (cli.directory / "cloudmanager.toml").write_text(SHELF)
    lines = [line.split() for line in cli("plugins", env=third_party).stdout.splitlines()]
    assert ["shelf", "cloudmanager-shelf", "1.2", "shelf", "authorize,", "register_providers", "locate"] in lines
    assert ["s", "shelf"] in lines


def test_a_broken_plugin_is_named(cli: CommandLine, third_party: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "site" / "cloudmanager_shelf.py").write_text("import no_such_module\n")
    answer = cli("plugins", env=third_party)
    assert answer.returncode == 1
    assert "plugin shelf of cloudmanager-shelf cannot be imported" in answer.stderr
