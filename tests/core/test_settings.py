from pathlib import Path

import pytest

from cloudmanager.core import settings
from cloudmanager.core.errors import ConfigurationError

TOKEN = "0" * 64


def _refused(tables: dict[str, object]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        settings.from_tables(tables)
    return caught.value.detail


def test_the_defaults_are_valid_and_bind_loopback() -> None:
    defaults = settings.from_tables({})
    assert settings.parse_listen(defaults.server.listen) == ("127.0.0.1", 8600)
    assert settings.is_loopback(defaults.nbd.listen)
    assert defaults.nbd.advertised == defaults.nbd.listen
    assert defaults.store_url == "sqlite:////var/lib/cloudmanager/cloudmanager.sqlite"


@pytest.mark.parametrize(
    ("tables", "path", "near"),
    [
        ({"server": {"listn": "x"}}, "server.listn", "'listen'"),
        ({"nbd": {"port": "1-2"}}, "nbd.port", "'ports'"),
        ({"exports": {"default_ttl": 5}}, "exports.default_ttl", "'default_ttl_seconds'"),
        ({"provider": {}}, "provider", "'providers'"),
    ],
)
def test_an_unknown_key_names_the_near_miss(tables: dict[str, object], path: str, near: str) -> None:
    assert f"{path}: there is no such setting; did you mean {near}?" in _refused(tables)


def test_every_mistake_is_named_at_once() -> None:
    detail = _refused({"nbd": {"ports": "9", "connections": 0}, "server": {"listen": "here"}})
    assert all(path in detail for path in ("nbd.ports:", "nbd.connections:", "server.listen:"))


@pytest.mark.parametrize("ports", ["", "5", "0-5", "9-1", "1-70000", "a-b"])
def test_a_port_range_must_make_sense(ports: str) -> None:
    assert "nbd.ports" in _refused({"nbd": {"ports": ports}})


def test_the_api_beyond_loopback_needs_a_token() -> None:
    beyond = {"listen": "0.0.0.0:8600"}
    assert "cloudmanager token" in _refused({"server": beyond})
    assert settings.from_tables({"server": {**beyond, "token_sha256": [TOKEN]}})
    assert settings.from_tables({"server": {"listen": "unix:/run/cm.sock"}})
    assert settings.from_tables({"server": {"listen": "[::1]:8600"}})


def test_exports_beyond_loopback_need_tls_or_plain_words() -> None:
    assert 'tls = "psk" or "x509", or insecure = true' in _refused({"nbd": {"listen": "0.0.0.0"}})
    assert settings.from_tables({"nbd": {"listen": "0.0.0.0", "tls": "psk"}})
    assert settings.from_tables({"nbd": {"listen": "0.0.0.0", "insecure": True}})


def test_certificates_are_used_where_tls_says_so() -> None:
    table = {"listen": "0.0.0.0", "tls": "x509", "tls_certificates": "/etc/tls"}
    assert settings.from_tables({"nbd": table}).nbd.certificates == Path("/etc/tls")
    assert settings.from_tables({"nbd": {**table, "tls": "psk"}}).nbd.certificates is None


def test_a_default_life_longer_than_the_longest_is_refused() -> None:
    assert "max_ttl_seconds" in _refused({"exports": {"default_ttl_seconds": 10, "max_ttl_seconds": 5}})


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cloudmanager.toml"
    file.write_text('[server]\nlisten = "127.0.0.1:1"\nstate_dir = "/a"\n[providers.here]\ntype = "local"\n')
    monkeypatch.setenv("CLOUDMANAGER_SERVER__LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("CLOUDMANAGER_PROVIDERS__THERE__TYPE", "local")
    loaded = settings.load(file)
    assert loaded.server.listen == "127.0.0.1:2"
    assert loaded.server.state_dir == Path("/a")
    assert set(loaded.providers) == {"here", "there"}


def test_a_variable_that_sets_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"did you mean 'CLOUDMANAGER_SERVER'\?"):
        settings.load(None, {"CLOUDMANAGER_SERVR__LISTEN": "127.0.0.1:1"})
    assert settings.load(None, {"CLOUDMANAGER_TOKEN": "x", "HOME": "/"})


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "config example"), (b"[server", "not valid TOML"), (b"\xff", "not valid TOML")],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "cloudmanager.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        settings.load(file)


def test_an_error_never_repeats_a_value() -> None:
    assert "hunter2" not in _refused({"store": {"url": 7}, "server": {"token_sha256": ["hunter2"]}})


def test_every_setting_says_what_it_is_for() -> None:
    for table in (settings.ServerSettings, settings.StoreSettings, settings.NbdSettings, settings.ExportSettings):
        for name, field in table.model_fields.items():
            assert field.description, f"{table.__name__}.{name}"
