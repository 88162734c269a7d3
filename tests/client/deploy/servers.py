"""Real NBD servers for targets and sources."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cloudmanager.client.address import NbdAddress
from tests.waiting import eventually

DEADLINE_SECONDS = 60


@dataclass
class Server:
    """qemu-nbd for one image, on a Unix socket; it can be killed and started again."""

    disk: Path
    socket: Path
    options: tuple[str, ...] = ("--shared=8", "--discard=unmap")
    image_format: str = "raw"
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def address(self) -> NbdAddress:
        return NbdAddress(f"nbd+unix:///disk?socket={self.socket}", is_writable=True)

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        pid_file = self.socket.with_suffix(".pid")
        pid_file.unlink(missing_ok=True)
        command = ["qemu-nbd", "--persistent", f"--format={self.image_format}", "--export-name=disk", *self.options]
        self.process = subprocess.Popen([*command, f"--socket={self.socket}", f"--pid-file={pid_file}", str(self.disk)])
        eventually(lambda: pid_file.exists() and pid_file.read_text())

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(DEADLINE_SECONDS)


@contextmanager
def serving(disk: Path, *options: str, image_format: str = "raw") -> Iterator[Server]:
    server = Server(disk, disk.with_suffix(".socket"), image_format=image_format)
    if options:
        server.options = options
    server.start()
    try:
        yield server
    finally:
        server.stop()
