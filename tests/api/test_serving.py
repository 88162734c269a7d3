"""The service as a process of its own: where it listens, and what it logs."""

import gc
import hashlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cloudmanager import api
from cloudmanager.api.listener import address_of, listening
from cloudmanager.api.serving import GRACE_SECONDS
from tests.api.process import SERVE, process
from tests.api.service import running, settings_for
from tests.waiting import eventually

TOKEN = "correct-horse-battery-staple"


@pytest.fixture
def socket_directory() -> Iterator[Path]:
    """Short enough for the path of a unix socket, which has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="cm-") as directory:
        yield Path(directory)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_it_says_where_it_listens_and_ends_in_good_order(tmp_path: Path, signal_number: int) -> None:
    with process(tmp_path) as started:
        assert httpx.get(f"{started.address()}/readyz").json()["ready"] is True
        before = time.monotonic()
        started.popen.send_signal(signal_number)
        assert started.popen.wait(20) == 0
        assert time.monotonic() - before < GRACE_SECONDS
    assert [line for line in started.lines if "listening on" in line or "stopped" in line] == started.lines


def test_garbage_is_collected_again_once_the_modules_are_loaded() -> None:
    with api._no_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_service_that_cannot_start_a_server_is_not_ready(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(settings_for(directory, nbd={"sandbox": "bubblewrap"})) as service:
        assert service.client.get("/readyz").status_code == 200
        monkeypatch.setenv("PATH", str(tmp_path))
        answer = service.client.get("/readyz")
    assert answer.status_code == 503
    missing = {each["subject"] for each in answer.json()["findings"] if each["severity"] == "problem"}
    assert missing == {"qemu-nbd", "bwrap"}


def test_it_ends_in_good_order_while_a_client_keeps_its_connection(tmp_path: Path) -> None:
    with process(tmp_path) as started, httpx.Client(base_url=started.address()) as client:
        client.get("/healthz")
        started.popen.terminate()
        assert started.popen.wait(20) == 0


def test_it_serves_on_a_private_unix_socket(tmp_path: Path, socket_directory: Path) -> None:
    path = socket_directory / "cm.sock"
    with process(tmp_path, server={"listen": f"unix:{path}", "state_dir": str(tmp_path / "s"), "node": "n"}) as started:
        assert started.address() == f"unix:{path}"
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, base_url="http://cloudmanager") as client:
            assert client.get("/v1/exports").json() == {"items": [], "next_page": None}
            assert client.get("/docs").status_code == 200
    assert started.popen.returncode == 0
    assert not path.exists()


def test_an_address_in_use_ends_it_before_it_has_touched_anything(tmp_path: Path) -> None:
    with listening("127.0.0.1:0") as taken:
        address = address_of(taken).removeprefix("http://")
        with process(tmp_path, server={"listen": address, "state_dir": str(tmp_path / "state")}) as started:
            assert started.popen.wait(20) == 1
    assert f"SetupError: {address} is in use" in "".join(started.lines)
    assert not (tmp_path / "state").exists()


def test_neither_tokens_nor_keys_are_logged_even_when_everything_is(tmp_path: Path) -> None:
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    server = {"log_level": "debug", "token_sha256": [digest], "state_dir": str(tmp_path / "state")}
    with process(tmp_path, server=server) as started:
        for token in (TOKEN, "wrong-horse"):
            httpx.get(f"{started.address()}/v1/nodes", headers={"Authorization": f"Bearer {token}"})
        eventually(lambda: sum("/v1/nodes" in line for line in started.lines) >= 2, "requests are not logged")
    logged = "".join(started.lines)
    assert TOKEN not in logged
    assert "wrong-horse" not in logged


@pytest.mark.parametrize(
    "package",
    [
        "sqlalchemy",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("fastapi", "uvicorn", "prometheus_client")),
    ],
)
def test_a_missing_extra_names_the_command_that_installs_it(tmp_path: Path, package: str) -> None:
    configuration = tmp_path / "configuration.json"
    configuration.write_text(settings_for(tmp_path).model_dump_json())
    without = f"import sys; sys.modules[{package!r}] = None"
    command = [sys.executable, "-c", f"{without}\n{SERVE}", str(configuration)]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert f"MissingExtra: The service needs {package}" in ended.stderr
    assert "pip install 'cloudmanager[server]'" in ended.stderr


def test_a_client_gives_its_idle_connection_up_before_the_service_does(tmp_path: Path) -> None:
    """Else it may be closed at the moment that the client sends a request, which would then be lost."""
    with running(settings_for(tmp_path)) as service:
        assert service.server.config.timeout_keep_alive > (httpx.Limits().keepalive_expiry or 0)
