import signal
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.cli.conftest import CommandLine
from tests.ports import free_port
from tests.waiting import eventually

CONFIGURATION = '[server]\nlisten = "127.0.0.1:{port}"\nstate_dir = "{directory}/state"\n'


@pytest.fixture
def service(cli: CommandLine) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """The service as a process, and a client of it."""
    port = free_port()
    (cli.directory / "cloudmanager.toml").write_text(CONFIGURATION.format(directory=cli.directory, port=port))
    command = [sys.executable, "-m", "cloudmanager", "serve"]
    with subprocess.Popen(command, cwd=cli.directory, stderr=subprocess.PIPE, text=True) as process:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            eventually(lambda: process.poll() is not None or _answers(client))
            assert process.poll() is None, "the service did not start"
            yield process, client
        process.kill()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").is_success
    except httpx.HTTPError:
        return False


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
