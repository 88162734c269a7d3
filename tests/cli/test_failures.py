"""Whatever goes wrong around a command, it says so in one line and ends with a code: no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from cloudmanager.cli.app import app

ARGUMENTS = {
    "disks": ("x",),
    "export": ("local:a.img",),
    "renew": ("id",),
    "release": ("id",),
    "attach": ("local:a.img",),
    "run": ("local:a.img", "--", "true", "{uri}"),
    "deploy": ("a.img", "local:b.img"),
    "admin force-release": ("id",),
    "admin pause": ("local",),
    "admin resume": ("local",),
    "admin drain": ("here",),
    "admin undrain": ("here",),
    "new-provider": ("shelf", "shelf"),
    "store backup": ("backup.sqlite",),
    "store restore": ("absent.sqlite",),
    "testing cloud": ("gce",),
}
RUNS_ON = ("demo", "serve", "testing cloud")
"""Would go on if nothing were wrong."""


def _commands() -> Iterator[str]:
    def walk(command: object, name: str) -> Iterator[str]:
        children = getattr(command, "commands", None)
        if children is None:
            yield name
            return
        for child, inner in children.items():
            yield from walk(inner, f"{name} {child}".strip())

    yield from walk(get_command(app), "")


COMMANDS = tuple(_commands())
ENDING = tuple(command for command in COMMANDS if command not in RUNS_ON)
USES_CONFIGURATION = tuple(
    command
    for command in COMMANDS
    if command.split()[0] in ("serve", "doctor", "plugins", "store") or command == "config check"
)
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def command(tmp_path: Path) -> Run:
    """Runs one through a shell, so that its streams can be anything: `command("exports", "> /dev/full")`."""
    here = tmp_path / "here"
    here.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDMANAGER_")}
    base = {
        **kept,
        "CLOUDMANAGER_URL": "http://127.0.0.1:1",
        "CLOUDMANAGER_RUN_DIR": str(tmp_path / "run"),
        "CLOUDMANAGER_SERVER__STATE_DIR": str(tmp_path / "state"),
        "XDG_STATE_HOME": str(tmp_path / "xdg"),
        "COLUMNS": "200",
    }

    def run(name: str, streams: str = "", *more: str, **environment: str | None) -> subprocess.CompletedProcess[bytes]:
        format_duration = [sys.executable, "-m", "cloudmanager", *name.split(), *ARGUMENTS.get(name, ()), *more]
        changed = {key: value for key, value in {**base, **environment}.items() if value is not None}
        return subprocess.run(
            ["bash", "-c", f'"$@" {streams}', "bash", *format_duration],
            cwd=here,
            env=changed,
            capture_output=True,
            timeout=100,
            check=False,
        )

    return run


def assert_legible(ran: subprocess.CompletedProcess[bytes]) -> None:
    shown_output = ran.stderr.decode(errors="replace")
    assert "Traceback" not in shown_output
    assert "Exception ignored" not in shown_output
    assert "defect" not in shown_output
    assert ran.returncode in (0, 1, 2, 3), shown_output
    if ran.returncode == 1:
        assert len(shown_output.splitlines()) <= 1, shown_output
        assert all(line.startswith("cloudmanager: ") for line in shown_output.splitlines())


@pytest.mark.parametrize("name", ENDING)
def test_the_worst_of_all(command: Run, name: str) -> None:
    """In one run for each command; the slow tests take the conditions one by one."""
    environment = {"PYTHONIOENCODING": "ascii", "CLOUDMANAGER_HOLDER": "jürgen…✓", "TERM": "dumb"}
    gone = {"HOME": None, "XDG_STATE_HOME": None, "USER": None, "LOGNAME": None, "XDG_RUNTIME_DIR": "/proc/none"}
    trust = {"CLOUDMANAGER_URL": "https://127.0.0.1:1", "SSL_CERT_FILE": "/no/such/file.pem"}
    assert_legible(command(name, "<&- >/dev/full", **environment, **gone, **trust))


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDING)
@pytest.mark.parametrize("streams", [">/dev/full", ">&-", "<&- >&- 2>&-", "2>/dev/full", "| head -c 1 >/dev/null"])
def test_streams_that_cannot_be_used(command: Run, name: str, streams: str) -> None:
    assert_legible(command(name, streams))


@pytest.mark.parametrize("name", ["token", "config example", "config check", "plugins", "doctor", "cleanup"])
def test_output_that_is_lost_is_an_error_that_says_so(command: Run, name: str) -> None:
    full, closed = command(name, ">/dev/full"), command(name, ">&-")
    assert (full.returncode, closed.returncode) == (1, 1)
    assert full.stderr == b"cloudmanager: The output cannot be written: No space left on device.\n"
    assert closed.stderr == b"cloudmanager: The output cannot be written: Bad file descriptor.\n"


def test_a_reader_that_has_left_is_told_nothing() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, "-m", "cloudmanager", "config", "example"]
        ran = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=100, check=False)
    finally:
        os.close(write)
    assert (ran.returncode, ran.stderr) == (1, b"")


@pytest.mark.parametrize("name", ["--help", "--version", "exports --help"])
def test_help_into_a_full_device(command: Run, name: str) -> None:
    ran = command(name, ">/dev/full")
    assert ran.returncode == 1
    assert ran.stderr == b"cloudmanager: The output cannot be written: No space left on device.\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDING)
@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "CLOUDMANAGER_HOLDER": "jürgen…✓"},
        {"TERM": "dumb", "HOME": None, "XDG_STATE_HOME": None, "USER": None, "LOGNAME": None},
        {"HOME": "/proc/none", "XDG_STATE_HOME": "/proc/none", "XDG_RUNTIME_DIR": "/proc/none"},
        {"CLOUDMANAGER_RUN_DIR": "/proc/none", "TMPDIR": "/proc/none"},
        {"CLOUDMANAGER_URL": "https://127.0.0.1:1", "SSL_CERT_FILE": "/no/such/file.pem"},
        {"CLOUDMANAGER_URL": "https://127.0.0.1:1", "SSL_CERT_FILE": "/etc/passwd", "SSL_CERT_DIR": None},
        {"CLOUDMANAGER_URL": "http://[::1", "CLOUDMANAGER_TOKEN": "é"},
    ],
    ids=lambda environment: "-".join(environment)[:40],
)
def test_environments(command: Run, name: str, environment: dict[str, str | None]) -> None:
    assert_legible(command(name, "", **environment))


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(2000) + b"\xff\xfe\x00")


CONFIGURATIONS: dict[str, Callable[[Path], object]] = {
    "a directory": Path.mkdir,
    "garbage": _garbage,
    "not UTF-8": lambda path: path.write_bytes("# jürgen".encode("latin-1")),
    "NUL": lambda path: path.write_bytes(bytes(100)),
    "deep": lambda path: path.write_text("a = " + "[" * 50_000),
    "a large number": lambda path: path.write_text("a = " + "1" * 10_000),
    "a loop of links": lambda path: path.symlink_to(path),
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "unknown": lambda path: path.write_text("[server]\nlisen = 1\nlisten = 2\n[nbd]\nports = 7\n"),
    "a wrong kind": lambda path: path.write_text("server = 7\nproviders = []\n"),
}


@pytest.mark.parametrize("name", ["config check", "serve"])
@pytest.mark.parametrize("make", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_configurations(command: Run, tmp_path: Path, name: str, make: Callable[[Path], object]) -> None:
    make(tmp_path / "configuration.toml")
    ran = command(name, CLOUDMANAGER_CONFIG=str(tmp_path / "configuration.toml"))
    assert_legible(ran)
    assert ran.returncode == (3 if name == "doctor" else 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes somebody else")
@pytest.mark.parametrize("name", [*USES_CONFIGURATION, "exports", "admin status"])
def test_a_configuration_that_this_user_may_not_read(command: Run, tmp_path: Path, name: str) -> None:
    """Only the file: whoever runs the tests may be the only one who can read the program."""
    hidden = tmp_path / "configuration.toml"
    hidden.write_text("")
    hidden.chmod(0)
    program = [sys.executable, "-m", "cloudmanager", *name.split(), *ARGUMENTS.get(name, ())]
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", "--", *program]
    kept = {each: value for each, value in os.environ.items() if not each.startswith("CLOUDMANAGER_")}
    ran = subprocess.run(
        without,
        env={**kept, "CLOUDMANAGER_CONFIG": str(hidden)},
        cwd=tmp_path,
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert_legible(ran)
    assert b"configuration.toml" in ran.stderr + ran.stdout
    assert ran.returncode == (3 if name == "doctor" else 1)


@pytest.mark.parametrize(
    "encoding", ["ascii", *(pytest.param(each, marks=pytest.mark.slow) for each in ("latin-1", "utf-8"))]
)
def test_what_scripts_read_stays_json_and_toml_in_every_encoding(command: Run, encoding: str) -> None:
    strange = "/srv/jürgen-…"
    environment = {"PYTHONIOENCODING": encoding, "CLOUDMANAGER_SERVER__STATE_DIR": strange}
    for name in ("doctor", "config check", "plugins", "token"):
        shown_output = json.loads(command(name, "", "--json", **environment).stdout.decode(encoding))
        assert shown_output
    assert tomllib.loads(command("config example", **environment).stdout.decode())


def test_marks_are_words_where_there_are_none(command: Run) -> None:
    ran = command("doctor", PYTHONIOENCODING="ascii")
    assert ran.stdout.decode("ascii").startswith("ok configuration: ")


def test_what_a_service_sends_does_not_move_the_cursor(command: Run) -> None:
    ran = command("exports", CLOUDMANAGER_URL="http://\x1b[2J")
    assert b"\x1b" not in ran.stderr
