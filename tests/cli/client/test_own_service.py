"""Without a URL, a command asks the service of this machine where its configuration lets it listen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloudmanager.cli import configuration
from cloudmanager.core.errors import ConfigurationError
from tests.cli.client.conftest import Run
from tests.client.daemon import Daemon


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in os.environ:
        if name.startswith("CLOUDMANAGER_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(configuration, "SEARCH_PATHS", (Path("cloudmanager.toml"),))
    return tmp_path


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:8700", "http://127.0.0.1:8700"),
        ("0.0.0.0:8700", "http://127.0.0.1:8700"),
        ("[::]:8700", "http://[::1]:8700"),
        ("[::1]:8700", "http://[::1]:8700"),
        ("10.1.2.3:80", "http://10.1.2.3:80"),
        ("worker-7:8600", "http://worker-7:8600"),
        ("unix:/run/cm.sock", "unix:/run/cm.sock"),
    ],
)
def test_where_it_listens(here: Path, monkeypatch: pytest.MonkeyPatch, listen: str, url: str) -> None:
    (here / "cloudmanager.toml").write_text(f'[server]\nlisten = "{listen}"\n')
    assert configuration.own_service() == url
    (here / "cloudmanager.toml").unlink()
    assert configuration.own_service() is None
    monkeypatch.setenv("CLOUDMANAGER_SERVER", f'{{"listen": "{listen}"}}')
    assert configuration.own_service() == url
    monkeypatch.delenv("CLOUDMANAGER_SERVER")
    monkeypatch.setenv("cloudmanager_server__listen", listen)
    assert configuration.own_service() == url


@pytest.mark.parametrize("text", ["", "[server]\n", "[nbd]\nports = '1-2'\n", "server = 7\n"])
def test_a_configuration_that_does_not_say_it(here: Path, text: str) -> None:
    (here / "cloudmanager.toml").write_text(text)
    assert configuration.own_service() is None


@pytest.mark.parametrize("text", ["[server]\nlisten = 7\n", "[server]\nlisten = '127.0.0.1:0'\n", "[server\n", "\xff"])
def test_one_that_cannot_be_followed_is_an_error(here: Path, text: str) -> None:
    (here / "cloudmanager.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError):
        configuration.own_service()


def test_a_file_that_everybody_may_write_is_not_followed(here: Path) -> None:
    (here / "cloudmanager.toml").write_text('[server]\nlisten = "10.6.6.6:80"\n')
    (here / "cloudmanager.toml").chmod(0o666)
    with pytest.raises(ConfigurationError, match="everybody may write"):
        configuration.own_service()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_another_users_file_in_this_directory_is_not_followed(here: Path) -> None:
    (here / "cloudmanager.toml").write_text('[server]\nlisten = "10.6.6.6:80"\n')
    os.chown(here / "cloudmanager.toml", 4711, 4711)
    with pytest.raises(ConfigurationError, match="another user's"):
        configuration.own_service()


@pytest.mark.parametrize("command", ["disks", "exports", "admin status", "admin pause local", "admin resume local"])
def test_commands_go_there(environment: dict[str, str], people: Run, daemon: Daemon, command: str) -> None:
    environment["CLOUDMANAGER_CONFIG"] = str(daemon.directory / "cloudmanager.toml")
    environment["http_proxy"] = environment["HTTP_PROXY"] = "http://127.0.0.1:1"
    del environment["CLOUDMANAGER_URL"]
    answer = people(*command.split())
    assert answer.returncode == 0, answer.stderr
    named = people("--url", "http://127.0.0.1:1", *command.split())
    assert named.returncode == 1
    assert "http://127.0.0.1:1 gave no answer" in named.stderr
