import os
import subprocess
import sys
import tomllib
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from cloudmanager.cli.app import app
from tests.checkout import ROOT
from tests.cli.conftest import CommandLine

SERVER_PACKAGES = {"alembic", "fastapi", "httpx", "oslo_utils", "pluggy", "pydantic_settings", "sqlalchemy", "uvicorn"}
"""Not pydantic: recent releases of typer use it themselves when a command runs."""
HELP_SECONDS = 0.25
HELP_MODULES = 160
"""That many more than a bare interpreter takes about an eighth of a second."""
COMMANDS = [
    *(("disks",), ("export",), ("exports",), ("renew",), ("release",), ("attach",), ("run",), ("cleanup",)),
    ("deploy",),
    *(("serve",), ("demo",), ("doctor",), ("plugins",), ("token",)),
    *(("config",), ("config", "check"), ("config", "example")),
    *(("store",), ("store", "check"), ("store", "backup"), ("store", "restore")),
]


def test_help_lists_every_command(cli: CommandLine) -> None:
    answer = cli("--help")
    assert answer.returncode == 0
    assert all(name in answer.stdout for (name, *_) in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    answer = CliRunner().invoke(app, [*command, "--help"], prog_name="cloudmanager")
    assert answer.exit_code == 0
    assert "Usage: cloudmanager" in answer.stdout


def _loaded(cli: CommandLine, *arguments: str) -> set[str]:
    """The modules that Python loads for it."""
    answer = cli(command=(sys.executable, "-X", "importtime", *arguments))
    assert answer.returncode == 0
    loaded = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert "site" in loaded, "the list of imports was not read"
    return loaded


@pytest.mark.parametrize("arguments", [("--help",), ("serve", "--help"), ("--version",), ("token",)], ids=" ".join)
def test_what_needs_no_server_loads_nothing_of_it(cli: CommandLine, arguments: tuple[str, ...]) -> None:
    packages = {name.partition(".")[0] for name in _loaded(cli, "-m", "cloudmanager", *arguments)}
    assert "typer" in packages
    assert not packages & SERVER_PACKAGES


def test_help_imports_little(cli: CommandLine) -> None:
    """Which is what its time is spent on."""
    added = _loaded(cli, "-m", "cloudmanager", "--help") - _loaded(cli, "-c", "pass")
    assert len(added) <= HELP_MODULES, sorted(added)


def test_help_takes_less_than_a_quarter_of_a_second_of_the_processor(cli: CommandLine) -> None:
    """The quickest of several: another process on the machine does not make it any slower than it is."""

    def seconds() -> float:
        before = os.times()
        assert cli("--help").returncode == 0
        after = os.times()
        return sum(after[2:4]) - sum(before[2:4])

    assert min(seconds() for _ in range(7)) < HELP_SECONDS


@pytest.mark.parametrize(
    ("command_words", "expected"),
    [
        (("exp",), {"export", "exports"}),
        (("export", "local:web01.qcow2", "--acc"), {"--access"}),
        (("export", "local:web01.qcow2", "--access", "r"), {"read-only", "read-write"}),
    ],
    ids=["a command", "an option", "a value"],
)
def test_a_shell_completes(cli: CommandLine, command_words: tuple[str, ...], expected: set[str]) -> None:
    """As the script that --install-completion gives to bash asks for it."""
    line = {"COMP_WORDS": " ".join(["cloudmanager", *command_words]), "COMP_CWORD": str(len(command_words))}
    assert set(cli(env={"_CLOUDMANAGER_COMPLETE": "complete_bash", **line}).stdout.split()) == expected
    no_detection = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # who runs the tests may have no shell above
    assert "complete_bash" in cli("--show-completion", "bash", env=no_detection).stdout


def test_version_is_that_of_the_distribution(cli: CommandLine) -> None:
    assert cli("--version").stdout == f"cloudmanager {version('cloudmanager')}\n"


def test_the_console_script_is_the_same_command_line(cli: CommandLine) -> None:
    script = Path(sys.executable).with_name("cloudmanager")
    assert cli(command=(str(script), "--version")).stdout == cli("--version").stdout


def test_wrong_usage_exits_with_2(cli: CommandLine) -> None:
    answer = cli("doctor", "--jason")
    assert answer.returncode == 2
    assert "--jason" in answer.stderr


@pytest.mark.parametrize("command", [("serve",), ("plugins",), ("config", "check")], ids=" ".join)
def test_a_missing_configuration_file_is_an_error_of_one_line(cli: CommandLine, command: tuple[str, ...]) -> None:
    answer = cli(*command, "--config", "absent.toml")
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr == (
        "cloudmanager: The configuration is not valid: "
        "absent.toml does not exist. `cloudmanager config example > absent.toml` writes one to start from.\n"
    )


def _write(path: Path, port: int) -> Path:
    path.write_text(f'[server]\nlisten = "127.0.0.1:{port}"\n')
    return path


def test_the_option_wins_over_the_variable_and_the_variable_over_the_working_directory(
    cli: CommandLine, tmp_path: Path
) -> None:
    option, variable = _write(tmp_path / "option.toml", 1001), _write(tmp_path / "variable.toml", 1002)
    assert "defaults" in cli("config", "check").stdout
    _write(cli.directory / "cloudmanager.toml", 1003)
    assert "127.0.0.1:1003" in cli("config", "check").stdout
    environment = {"CLOUDMANAGER_CONFIG": str(variable)}
    assert "127.0.0.1:1002" in cli("config", "check", env=environment).stdout
    assert "127.0.0.1:1001" in cli("config", "check", "--config", str(option), env=environment).stdout


def test_a_broken_link_to_a_configuration_file_is_not_taken_for_none(cli: CommandLine) -> None:
    (cli.directory / "cloudmanager.toml").symlink_to("moved-away.toml")
    answer = cli("config", "check")
    assert answer.returncode == 1
    assert "cloudmanager.toml does not exist" in answer.stderr


def test_the_light_installation_asks_for_three_packages_only() -> None:
    light = {line for line in requires("cloudmanager") or [] if "extra ==" not in line}
    assert {Requirement(line).name for line in light} == {"httpx", "rich", "typer"}


@pytest.mark.parametrize("package", ["httpx", "typer"])
def test_a_package_whose_insides_are_used_has_an_upper_bound(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {requirement.name: requirement for requirement in map(Requirement, project["dependencies"])}[package]
    assert any(bound.operator == "<" for bound in wanted.specifier)
    assert wanted.specifier.contains(version(package)), f"{package} {version(package)} is installed"


def test_a_deployment_starts_without_what_only_others_need(cli: CommandLine) -> None:
    """Fractions of a second, which decide between programs where an image is small or a link fast."""
    code = "import sys; sys.argv[1:] = sys.stdin.read().split(); import cloudmanager.cli as c\n"
    code += "try: c.main()\nexcept SystemExit: print(*sys.modules)"
    command_words = "--url http://127.0.0.1:1 deploy --connections 4 /nonexistent local:disk"
    ran = subprocess.run([sys.executable, "-c", code], input=command_words, capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert "gave no answer" in ran.stderr
    assert "httpx" in loaded
    assert not loaded & {"rich", "pygments", "click"}, f"with httpx {version('httpx')}, typer {version('typer')}"


def test_text_and_what_is_not_given_is_not_converted(cli: CommandLine) -> None:
    """`--connections 4` is, and is checked; without it nothing has to be."""
    code = (
        "import sys; import cloudmanager.cli as c\ntry: c.main()\nexcept SystemExit: print('pydantic' in sys.modules)"
    )
    command_words = [sys.executable, "-c", code, "--url", "http://127.0.0.1:1", "deploy", "/nonexistent", "local:disk"]
    loads_pydantic = subprocess.run(command_words, capture_output=True, text=True, check=True).stdout.strip()
    assert loads_pydantic == "False", f"typer {version('typer')} converts in another way"
    assert cli("deploy", "--connections", "0", "a", "b").returncode == 2
