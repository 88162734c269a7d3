import itertools
import json
import re
import sqlite3
import subprocess
import tomllib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cloudmanager.core.clock import Clock
from cloudmanager.core.settings import Settings, from_tables
from cloudmanager.core.store import Store
from tests.authority import Authority, CertificateRequest
from tests.checkout import ROOT
from tests.cli.conftest import CommandLine

SHELF = '[providers.s]\ntype = "shelf"\nroom = "cellar"\n'
Check = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def configured(cli: CommandLine, third_party: dict[str, str]) -> Check:
    """`configured(text)` runs `config check` on it."""

    def check(text: str) -> subprocess.CompletedProcess[str]:
        (cli.directory / "cloudmanager.toml").write_text(text)
        return cli("config", "check", env=third_party)

    return check


def test_check_says_what_was_understood(configured: Check) -> None:
    answer = configured('[nbd]\nlisten = "0.0.0.0"\nadvertise = "disks.example"\ntls = "psk"\n' + SHELF)
    assert answer.returncode == 0, answer.stderr
    assert "cloudmanager.toml is valid" in answer.stdout
    assert "0.0.0.0 (clients use disks.example), ports 10900-11899, TLS with a key for each export" in answer.stdout
    assert "s, of type shelf" in answer.stdout


@pytest.mark.parametrize("tls", ["psk", "x509"])
@pytest.mark.parametrize(
    "address", ['listen = "::1"', 'listen = "::"\nadvertise = "2001:db8::7"', 'advertise = "2001:DB8:0::7"']
)
def test_check_warns_of_an_ipv6_address_with_tls(configured: Check, tls: str, address: str) -> None:
    answer = configured(f'[nbd]\n{address}\ntls = "{tls}"\n')
    assert answer.returncode == 0
    assert "warning: with TLS, programs built on libnbd" in answer.stdout
    assert "Set [nbd] advertise to a host name" in answer.stdout


@pytest.mark.parametrize(
    "nbd", ['listen = "::1"', 'listen = "::"\nadvertise = "disks.example"\ntls = "psk"', 'tls = "psk"']
)
def test_check_warns_of_nothing_else(configured: Check, nbd: str) -> None:
    assert "warning" not in configured(f"[nbd]\n{nbd}\n").stdout


def test_check_answers_a_script_as_well(cli: CommandLine) -> None:
    (cli.directory / "cloudmanager.toml").write_text('[server]\nlisten = "127.0.0.1:1001"\n')
    answer = json.loads(cli("config", "check", "--json").stdout)
    assert answer["file"] == "cloudmanager.toml"
    assert {"subject": "HTTP", "value": "127.0.0.1:1001, no token needed"} in answer["understood"]
    assert answer["cautions"] == []


def test_check_hides_the_password_of_the_store(configured: Check) -> None:
    answer = configured('[store]\nurl = "postgresql+psycopg://cm:secret@db.example/cm"\n')
    assert "postgresql+psycopg://cm:***@db.example/cm" in answer.stdout
    assert "secret" not in answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ('[server]\nlissen = "127.0.0.1:1"\n', "did you mean 'listen'"),
        ('[providers.s]\ntype = "shell"\n', "did you mean 'shelf'"),
        ('[providers.s]\ntype = "shelf"\nrom = "cellar"\n', "did you mean 'room'"),
        ('[providers.s]\ntype = "shelf"\n', "providers.s.room: Field required"),
        ("[server\n", "is not valid TOML"),
        ('[store]\nurl = "no url"\n', "store.url"),
    ],
)
def test_check_refuses_a_mistake_and_says_what_is_wrong(configured: Check, text: str, output: str) -> None:
    answer = configured(text)
    assert answer.returncode == 1
    assert output in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.fixture
def example(cli: CommandLine, third_party: dict[str, str]) -> str:
    answer = cli("config", "example", env=third_party)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def _all_in_use(example: str) -> dict[str, dict[str, object]]:
    """Every commented option and table taken in, explanations left out."""
    return tomllib.loads(re.sub(r"(?m)^#(?=[^ ])", "", example))


@pytest.fixture
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the suite's own settings."""
    monkeypatch.delenv("CLOUDMANAGER_SERVER__LOCK_DIR")


@pytest.mark.usefixtures("_plain_environment")
def test_the_example_as_printed_is_the_defaults(example: str) -> None:
    assert from_tables(tomllib.loads(example)) == Settings.model_construct()


@pytest.mark.usefixtures("_plain_environment")
def test_the_example_shows_every_option_of_the_service_with_its_default(example: str) -> None:
    used = _all_in_use(example)
    del used["providers"]
    assert used["server"].pop("node") == "worker-1"
    assert from_tables(used) == Settings.model_construct()
    shown = {table: set(used[table]) | ({"node"} if table == "server" else set()) for table in used}
    tables = {name: field.annotation for name, field in Settings.model_fields.items() if name != "providers"}
    assert shown == {name: set(model.model_fields) for name, model in tables.items()}


def test_the_example_with_every_option_in_use_is_valid(configured: Check, example: str) -> None:
    text = re.sub(r"(?m)^#(?=[^ ])", "", example)
    answer = configured(text)
    assert answer.returncode == 0, answer.stderr
    assert "shelf, of type shelf" in answer.stdout


def test_the_example_shows_the_options_of_each_provider_type(example: str) -> None:
    assert _all_in_use(example)["providers"]["shelf"] == {"type": "shelf", "room": "cellar", "boards": 3, "labels": []}
    assert "# How many boards it has. (integer, 1 to 9)" in example
    assert "# Where the shelf is. (string; required)" in example
    assert '# Example: labels = ["a|b"]' in example
    assert "# keeper: not set" in example


def test_every_option_of_the_example_is_explained(example: str) -> None:
    lines = example.splitlines()
    for before, line in itertools.pairwise(lines):
        if re.match(r"#\w+ = ", line):
            assert before.startswith("# "), f"{line} has no explanation"


def test_the_reference_has_a_row_for_each_option_and_its_variable(
    cli: CommandLine, third_party: dict[str, str]
) -> None:
    page = cli("config", "reference", env=third_party).stdout
    assert '| `listen` | string | `"127.0.0.1:8600"` |' in page
    assert "`CLOUDMANAGER_EXPORTS__DEFAULT_TTL_SECONDS`" in page
    assert '| `room` | string | required | Where the shelf is. Example: `"cellar"`. |' in page
    assert '`["a\\|b"]`' in page, "a bar would end the cell"


def test_the_variables_of_the_reference_are_heard(
    cli: CommandLine, third_party: dict[str, str], configured: Check
) -> None:
    environment = {
        "CLOUDMANAGER_SERVER__LISTEN": "127.0.0.1:1234",
        "CLOUDMANAGER_PROVIDERS": '{"s": {"labels": ["old", "new"]}}',
        "CLOUDMANAGER_PROVIDERS__S__BOARDS": "4",
        **third_party,
    }
    (cli.directory / "cloudmanager.toml").write_text(SHELF)
    answer = cli("config", "check", env=environment)
    assert answer.returncode == 0, answer.stderr
    assert "127.0.0.1:1234" in answer.stdout
    assert cli("config", "check", env={**environment, "CLOUDMANAGER_PROVIDERS__S__BOARDS": "10"}).returncode == 1


def test_the_configuration_page_is_in_step_with_the_code(cli: CommandLine) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == cli("config", "reference").stdout, "run `make docs`"


def newer_store(path: Path) -> None:
    """As a version of tomorrow leaves it."""
    Store.open(f"sqlite:///{path}", Clock()).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()


def test_what_would_keep_the_service_from_starting_is_found(cli: CommandLine, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    environment = {"CLOUDMANAGER_SERVER__STATE_DIR": str(state)}
    assert cli("config", "check", env=environment).returncode == 0
    newer_store(state / "cloudmanager.sqlite")
    checked, looked = cli("config", "check", env=environment), cli("doctor", env=environment)
    assert (checked.returncode, looked.returncode) == (1, 3)
    assert "A newer cloudmanager wrote it" in checked.stderr
    assert "A newer cloudmanager wrote it" in looked.stdout


def test_a_socket_whose_path_is_too_long_is_found(cli: CommandLine) -> None:
    for path, is_right in (("/run/" + "x" * 102, True), ("/run/" + "x" * 103, False), ("/run/" + "ü" * 52, False)):
        environment = {"CLOUDMANAGER_SERVER__LISTEN": f"unix:{path}"}
        checked = cli("config", "check", env=environment)
        assert checked.returncode == (0 if is_right else 1)
        assert ("107 bytes at most" in checked.stderr) is not is_right
        assert ("107 bytes at most" in cli("doctor", env=environment).stdout) is not is_right


def test_certificates_that_clients_would_refuse_are_found(cli: CommandLine, tmp_path: Path) -> None:
    authority = Authority()
    between = Authority("between")
    between.certificate = authority._signed("between", between.key, CertificateRequest(hosts=(), is_authority=True))
    directory = between.server(tmp_path / "tls")
    both = (authority.certificate, between.certificate)
    (directory / "ca-cert.pem").write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in both))
    environment = {"CLOUDMANAGER_NBD__TLS": "x509", "CLOUDMANAGER_NBD__TLS_CERTIFICATES": str(directory)}
    checked, looked = cli("config", "check", env=environment), cli("doctor", env=environment)
    assert (checked.returncode, looked.returncode) == (1, 3)
    assert "lacks the certificate of CN=between" in checked.stderr
    assert "lacks the certificate of CN=between" in looked.stdout
