import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.cli.conftest import CommandLine

CONFIGURATION = '[server]\nlisten = "127.0.0.1:{port}"\nstate_dir = "{directory}/state"\n'


@pytest.fixture
def service(cli: CommandLine) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """The service as a process, and a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (cli.directory / "cloudmanager.toml").write_text(CONFIGURATION.format(directory=cli.directory, port=port))
    command = [sys.executable, "-m", "cloudmanager", "serve"]
    with subprocess.Popen(command, cwd=cli.directory, stderr=subprocess.PIPE, text=True) as process:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            _wait_until_it_answers(process, client)
            yield process, client
        process.kill()


def _wait_until_it_answers(process: subprocess.Popen[str], client: httpx.Client) -> None:
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        try:
            client.get("/healthz").raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.02)
        else:
            return
    pytest.fail("the service did not start")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_it_serves_until_it_is_told_to_stop(
    service: tuple[subprocess.Popen[str], httpx.Client], number: signal.Signals
) -> None:
    process, client = service
    assert client.get("/readyz").json()["ready"] is True
    process.send_signal(number)
    _, complaint = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in complaint


def test_a_second_service_on_the_directory_says_so_and_exits_with_1(
    service: tuple[subprocess.Popen[str], httpx.Client], cli: CommandLine
) -> None:
    answer = cli("serve", env={"CLOUDMANAGER_SERVER__LISTEN": f"unix:{cli.directory}/other"})
    assert answer.returncode == 1
    assert "another cloudmanager runs on" in answer.stderr
    assert "Traceback" not in answer.stderr
