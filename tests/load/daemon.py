"""`cloudmanager serve` as a process, with the plugin of a cloud of files installed beside it."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.checkout import ROOT
from tests.ports import free_port

START_SECONDS = 60
STOP_SECONDS = 60
BAD_LUCK = 25
"""One call of a provider in so many fails."""
CONFIGURATION = """\
[server]
listen = "127.0.0.1:{port}"
state_dir = "{directory}/state"
node = "here"
[exports]
drain_seconds = 0
linger_seconds = 0
[nbd]
ports = "25000-26999"
[providers.files]
type = "files"
"""
_ENTRY_POINT = """\
[cloudmanager.plugins]
file_cloud = tests.load.plugin
"""


class Daemon:
    """The service below a directory. It can be started again after it was stopped or killed."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.file_cloud = directory / "files"
        self.port = free_port()
        self.log = directory / "log"
        self._configuration = directory / "cloudmanager.toml"
        self._configuration.write_text(CONFIGURATION.format(port=self.port, directory=directory))
        self._site = directory / "site"
        _install_plugin(self._site)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it is ready for requests."""
        path = f"{self._site}:{ROOT}"
        luck = {"LOAD_CLOUD": str(self.file_cloud), "LOAD_BAD_LUCK": str(BAD_LUCK), "PYTHONPATH": path}
        command = [sys.executable, "-m", "cloudmanager", "serve", "--config", str(self._configuration)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, env=os.environ | luck, stdout=log, stderr=log, cwd=ROOT)
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            assert self._process.poll() is None, self._end_of_log()
            assert time.monotonic() < deadline, self._end_of_log()
            time.sleep(0.05)

    def stop(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")

    def errors(self) -> list[str]:
        """What it has logged that nobody injected."""
        return [line for line in self.log.read_text().splitlines() if " ERROR " in line or line.startswith("Traceback")]

    def _signal(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)
        self._process.wait(STOP_SECONDS)

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def _end_of_log(self) -> str:
        return self.log.read_text()[-3000:]


def _install_plugin(site: Path) -> None:
    """As pip leaves it."""
    installed = site / "load_plugin-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: load-plugin\nVersion: 1\n")
    (installed / "entry_points.txt").write_text(_ENTRY_POINT)
