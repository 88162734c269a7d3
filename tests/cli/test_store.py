import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from cloudmanager.core.clock import Clock
from cloudmanager.core.store import Store
from tests.cli.conftest import CommandLine

CONFIGURATION = '[server]\nlisten = "unix:{directory}/socket"\nstate_dir = "{directory}/state"\n'


@contextmanager
def _serving(cli: CommandLine) -> Iterator[None]:
    command = [sys.executable, "-m", "cloudmanager", "serve"]
    with subprocess.Popen(command, cwd=cli.directory, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "listening" in line)
        yield
        process.terminate()
        process.communicate()


@pytest.fixture
def state(cli: CommandLine) -> Path:
    """Where a service has left its store."""
    (cli.directory / "cloudmanager.toml").write_text(CONFIGURATION.format(directory=cli.directory))
    with _serving(cli):
        pass
    return cli.directory / "state"


@pytest.fixture
def service(cli: CommandLine, state: Path) -> Iterator[None]:
    """A service that runs on it."""
    with _serving(cli):
        yield


def test_a_store_in_order_is_said_to_be_so(cli: CommandLine, state: Path) -> None:
    answer = cli("store", "check")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert f"✓ store: {state}/cloudmanager.sqlite" in answer.stdout
    assert answer.stdout.endswith("Everything is in order.\n")


def test_a_check_looks_while_the_service_runs_and_at_a_backup_as_well(cli: CommandLine, service: None) -> None:
    assert cli("store", "backup", "backup.sqlite").returncode == 0
    for format_duration in (("check",), ("check", "backup.sqlite")):
        answer = cli("store", *format_duration)
        assert (answer.returncode, answer.stderr) == (0, "")


def test_what_is_wrong_exits_with_3_and_says_what_to_do_also_as_json(cli: CommandLine, state: Path) -> None:
    with closing(sqlite3.connect(state / "cloudmanager.sqlite")) as other, other:
        other.execute("INSERT INTO claims VALUES ('nobody', 'disk', 1)")
    reported = cli("store", "check")
    assert reported.returncode == 3
    assert "✗ foreign keys: row 1 of claims refers to no row of exports" in reported.stdout
    assert "`cloudmanager store restore`" in reported.stdout
    shown = cli("store", "check", "--json")
    assert shown.returncode == 3
    findings = {each["subject"]: each for each in json.loads(shown.stdout)["findings"]}
    assert findings["foreign keys"]["severity"] == "problem"
    assert findings["integrity"]["severity"] == "ok"


def test_a_backup_is_not_restored_while_the_service_runs(cli: CommandLine, service: None) -> None:
    assert cli("store", "backup", "backup.sqlite").stdout.startswith("backup.sqlite: 0.1 MiB")
    answer = cli("store", "restore", "backup.sqlite")
    assert answer.returncode == 1
    assert "another cloudmanager runs on" in answer.stderr


def test_a_backup_comes_back_and_the_store_of_before_is_kept(cli: CommandLine, state: Path) -> None:
    cli("store", "backup", "backup.sqlite")
    answer = cli("store", "restore", "backup.sqlite")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert f"{state}/cloudmanager.sqlite is what backup.sqlite was." in answer.stdout
    assert len(list(state.glob("cloudmanager.sqlite.kept-*"))) == 1
    assert cli("store", "check").returncode == 0


def test_a_script_is_told_as_json_what_was_kept_and_where(cli: CommandLine, state: Path) -> None:
    made = json.loads(cli("store", "backup", "backup.sqlite", "--json").stdout)
    assert made == {"file": "backup.sqlite", "size_bytes": (cli.directory / "backup.sqlite").stat().st_size}
    restored = json.loads(cli("store", "restore", "backup.sqlite", "--json").stdout)
    assert restored["store"] == str(state / "cloudmanager.sqlite")
    assert Path(restored["kept"]).exists()
    assert restored["disowned"] == []


def test_a_file_that_is_there_is_not_overwritten(cli: CommandLine, state: Path) -> None:
    (cli.directory / "letter").write_text("Dear Alice")
    answer = cli("store", "backup", "letter")
    assert answer.returncode == 1
    assert answer.stderr.endswith("letter exists. Name a file that does not, or delete it first.\n")


def test_for_postgresql_its_own_tools_are_named(cli: CommandLine) -> None:
    url = {"CLOUDMANAGER_STORE__URL": "postgresql+psycopg://user@db.example/cloudmanager"}
    for format_duration in (("backup", "file"), ("restore", "cloudmanager.toml")):
        answer = cli("store", *format_duration, env=url)
        assert answer.returncode == 1
        assert "pg_dump --format=custom" in answer.stderr
        assert "pg_restore --clean" in answer.stderr


def test_a_check_of_postgresql_looks_at_its_schema_and_rows(cli: CommandLine, postgres_url: str) -> None:
    with psycopg.connect(f"{postgres_url.replace('+psycopg', '')}/postgres", autocommit=True) as server:
        server.execute("CREATE DATABASE checked_by_command")
    url = f"{postgres_url}/checked_by_command"
    answer = cli("store", "check", env={"CLOUDMANAGER_STORE__URL": url})
    assert answer.returncode == 3
    assert "✗ schema: none: this is not a store of cloudmanager" in answer.stdout
    Store.open(url, Clock()).close()
    assert cli("store", "check", env={"CLOUDMANAGER_STORE__URL": url}).returncode == 0
