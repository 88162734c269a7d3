import hashlib
import json
from pathlib import Path

from cloudmanager.core import settings
from tests.cli.conftest import CommandLine


def _made(cli: CommandLine) -> tuple[str, str]:
    lines = [line for line in cli("token").stdout.splitlines() if not line.startswith("#")]
    assert len(lines) == 2
    return lines[0], lines[1]


def test_the_line_for_the_configuration_lets_the_token_in(cli: CommandLine, tmp_path: Path) -> None:
    token, line = _made(cli)
    path = tmp_path / "cloudmanager.toml"
    path.write_text(f"[server]\n{line}\n")
    assert settings.load(path, {}).server.token_sha256 == (hashlib.sha256(token.encode()).hexdigest(),)


def test_each_token_is_new_and_is_known_for_what_it_is(cli: CommandLine) -> None:
    (first, _), (second, _) = _made(cli), _made(cli)
    assert first != second
    assert first.startswith("cloudmanager_")
    assert len(first) > 50


def test_a_script_gets_the_same_as_json(cli: CommandLine) -> None:
    made = json.loads(cli("token", "--json").stdout)
    assert hashlib.sha256(made["token"].encode()).hexdigest() == made["token_sha256"]


def test_nothing_is_written(cli: CommandLine) -> None:
    home = cli.directory / "home"
    home.mkdir()
    assert cli("token", env={"HOME": str(home)}).returncode == 0
    assert [path.name for path in cli.directory.rglob("*")] == ["home"]
