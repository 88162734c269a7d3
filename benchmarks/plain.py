"""The yardstick: qemu-nbd as a person starts it in a shell."""

import os
import select
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


def start_line(image: Path, directory: Path) -> str:
    """A shell line that starts one read-only server and returns when it is ready; `$1` is its port."""
    return (
        "qemu-nbd --fork --persistent --shared=100 --read-only --format=raw --bind=127.0.0.1 "
        f"--port=$1 --pid-file={directory}/$1.pid {image}"
    )


def free_ports(count: int) -> list[int]:
    """Ports that nothing uses now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in sockets]


@contextmanager
def pid_directory() -> Iterator[Path]:
    """A place for the pid files; whatever they name is ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="cm-plain-") as name:
        try:
            yield Path(name)
        finally:
            stop_all(Path(name))


def stop_all(directory: Path) -> None:
    for file in directory.glob("*.pid"):
        pid = int(file.read_text())
        ended = os.pidfd_open(pid)
        os.kill(pid, signal.SIGTERM)
        select.select([ended], [], [], 10)
        os.close(ended)
        file.unlink(missing_ok=True)


@contextmanager
def plain_server(image: Path) -> Iterator[str]:
    """The address of one server, as the founding design starts it."""
    port = free_ports(1)[0]
    with pid_directory() as directory:
        subprocess.run(["sh", "-c", start_line(image, directory), "sh", str(port)], check=True)
        yield f"nbd://127.0.0.1:{port}"
