"""An image in a format of its own, or behind a URL, served to us by a qemu-nbd of our own on a private socket."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

from cloudmanager.client.address import NbdAddress
from cloudmanager.client.deploy.errors import MissingTool, SourceError
from cloudmanager.images import Image
from cloudmanager.transfer.complaints import without_graphs

READERS = 8
_NAME = "image"
_END_SECONDS = 5.0
_ACTIVATE = 'LISTEN_PID=$$ LISTEN_FDS=1; export LISTEN_PID LISTEN_FDS; exec "$@" 3<&0 </dev/null'
"""The listener is handed down as descriptor 3, for the pid that qemu-nbd has: no race for a socket or for readiness.

https://www.freedesktop.org/software/systemd/man/sd_listen_fds.html
"""

BlockOptions: TypeAlias = Mapping[str, "str | bool | int | BlockOptions | None"]


@dataclass(frozen=True)
class Served:
    """A running server."""

    address: NbdAddress
    log: Path

    def explained(self, error: Exception) -> SourceError:
        """What the server itself says about it."""
        said = without_graphs(self.log.read_text(errors="replace").strip()).splitlines()
        return SourceError(f"The image cannot be read: {said[-1] if said else error}")


def graph(image: Image, file: BlockOptions) -> BlockOptions:
    """Everything is said, so that QEMU finds out nothing by itself: not the format, and no backing file."""
    options: dict[str, str | bool | int | BlockOptions | None] = {
        "driver": image.format,
        "read-only": True,
        **image.driver_options,
    }
    if image.format == "qcow2":
        options["backing"] = None
    return options | {"file": file}


@contextmanager
def served(options: BlockOptions, descriptors: tuple[int, ...] = ()) -> Iterator[Served]:
    """Ends with the block, and by itself when this process is killed: the last connection ends it then.

    Raises MissingTool.
    """
    program = shutil.which("qemu-nbd")
    if program is None:
        raise MissingTool("qemu-nbd is not installed: the package qemu-utils.")
    private = tempfile.TemporaryDirectory(prefix="cloudmanager-image-")
    with private as directory, socket.socket(socket.AF_UNIX) as listener:
        path, log = Path(directory) / "socket", Path(directory) / "log"
        listener.bind(str(path))
        listener.listen(READERS)
        command = [
            program,
            "--read-only",
            f"--shared={READERS}",
            f"--export-name={_NAME}",
            f"json:{json.dumps(options)}",
        ]
        server = _start(command, listener, log, descriptors)
        listener.close()  # it is the server's alone: when that ends, who waits is told
        try:
            yield Served(NbdAddress(f"nbd+unix:///{_NAME}?socket={quote(str(path))}"), log)
        finally:
            _end(server)


def _start(
    command: list[str], listener: socket.socket, log: Path, descriptors: tuple[int, ...]
) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            ["/bin/sh", "-c", _ACTIVATE, "sh", *command],
            stdin=listener.fileno(),
            stdout=output,
            stderr=output,
            pass_fds=descriptors,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            start_new_session=True,  # Ctrl-C is for us
        )


def _end(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        server.wait(_END_SECONDS)
        return
    server.kill()
    server.wait()
