"""NBD servers as a person starts them in a shell: the yardsticks."""

import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from benchmarks.rig.execution import ExecutionContext

START_SECONDS = 20
CONNECTIONS = 100
_AES = "NORMAL:-CIPHER-ALL:+AES-128-GCM"


class PlainServer(ABC):
    """Serves one image, read-only, at one address."""

    name: ClassVar[str]
    program: ClassVar[str]
    export = ""

    def __init__(self, image: Path, address: str, port: int, directory: Path) -> None:
        """`directory` is for what it needs besides the image."""
        self.image, self.address, self.port, self.directory = image, address, port, directory

    @property
    def uri(self) -> str:
        return f"nbd://{self.address}:{self.port}/{self.export}"

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """Runs in the foreground, or leaves a process in the background and ends well."""


class QemuNbd(PlainServer):
    """The founding design's line."""

    name = "qemu-nbd by hand"
    program = "qemu-nbd"

    def command(self) -> Sequence[str | Path]:
        where = (f"--bind={self.address}", f"--port={self.port}", f"--pid-file={self.directory / 'nbd.pid'}")
        return ("qemu-nbd", *where, f"--shared={CONNECTIONS}", "-t", "-f", "raw", "-r", *self.security(), self.image)

    def security(self) -> Sequence[str]:
        return ()


class QemuNbdX509(QemuNbd):
    """With certificates of an authority that is made for the occasion."""

    name = "qemu-nbd by hand, TLS x509"

    @property
    def uri(self) -> str:
        return f"nbds://{self.address}:{self.port}/?tls-certificates={self.directory / 'client'}"

    def security(self) -> Sequence[str]:
        make_certificates(self.directory, self.address)
        options = f"tls-creds-x509,id=t,endpoint=server,dir={self.directory / 'server'},verify-peer=yes,priority={_AES}"
        return ("--object", options, "--tls-creds", "t")


class WritableQemuNbd(QemuNbd):
    """For deploying onto: with several connections, and trims and zeroes passed on."""

    def command(self) -> Sequence[str | Path]:
        where = (f"--bind={self.address}", f"--port={self.port}")
        options = ("-t", "-e", "8", "-f", "raw", "--discard=unmap", "--detect-zeroes=unmap")
        return ("qemu-nbd", *where, *options, self.image)


class Nbdkit(PlainServer):
    name = "nbdkit"
    program = "nbdkit"

    def command(self) -> Sequence[str | Path]:
        return ("nbdkit", "-f", "-r", "-i", self.address, "-p", str(self.port), "file", self.image)


class NbdServer(PlainServer):
    """Forks for each client, which its option -d, to stay in the foreground, would keep it from."""

    name = "nbd-server"
    program = "nbd-server"
    export = "disk"

    def command(self) -> Sequence[str | Path]:
        file = self.directory / "nbd-server.conf"
        file.write_text(
            f"[generic]\nlistenaddr = {self.address}\nport = {self.port}\n"
            f"[disk]\nexportname = {self.image}\nreadonly = true\n"
        )
        return ("nbd-server", "-C", file, "-p", self.directory / "nbd-server.pid")


class StorageDaemon(PlainServer):
    name = "qemu-storage-daemon"
    program = "qemu-storage-daemon"
    export = "disk"

    def command(self) -> Sequence[str | Path]:
        return (
            *("qemu-storage-daemon", "--blockdev", f"driver=file,node-name=disk,read-only=on,filename={self.image}"),
            *("--nbd-server", f"addr.type=inet,addr.host={self.address},addr.port={self.port}"),
            *("--export", "type=nbd,id=disk,node-name=disk,name=disk,writable=off"),
        )


@contextmanager
def serving(server: PlainServer, context: ExecutionContext) -> Iterator[str]:
    """Its address, once it answers. The end of the context's group ends what the server leaves."""
    with (server.directory / f"{server.program}.log").open("wb") as log:
        process = context.start(server.command(), stdout=log, stderr=log)
        try:
            _await_answer(server, process, Path(log.name))
            yield server.uri
        finally:
            process.terminate()
            process.wait(timeout=START_SECONDS)


def is_installed(server: type[PlainServer]) -> bool:
    return shutil.which(server.program) is not None


def _await_answer(server: PlainServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run(["nbdinfo", "--size", server.uri], check=False, capture_output=True).returncode:
        if process.poll() or time.monotonic() > deadline:
            raise SystemExit(f"{server.name} does not answer:\n{log.read_text()[-2000:]}")
        time.sleep(0.02)


def make_certificates(directory: Path, address: str) -> None:
    """An authority, and what it signed, in the directories and under the names that QEMU and libnbd look for."""
    server, client = directory / "server", directory / "client"
    for each in (server, client):
        each.mkdir(exist_ok=True)
    request = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    authority = ("-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-subj", "/CN=authority")
    _openssl(
        directory, "req", "-x509", *request, *authority, "-addext", "keyUsage=critical,keyCertSign,digitalSignature"
    )
    for where, name in ((server, "server"), (client, "client")):
        files = ("-keyout", where / f"{name}-key.pem", "-out", where / f"{name}-cert.pem")
        signed = ("-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-subj", f"/CN={name}")
        purpose = ("-addext", f"extendedKeyUsage={name}Auth", "-addext", f"subjectAltName=IP:{address}")
        _openssl(directory, "req", "-x509", *request, *files, *signed, *purpose, "-addext", "basicConstraints=CA:FALSE")
        shutil.copy(directory / "ca-cert.pem", where)
    parameters = Path(__file__).parents[2] / "cloudmanager/core/nbd/ffdhe2048.pem"
    shutil.copy(parameters, server / "dh-params.pem")


def _openssl(directory: Path, *words: str | Path) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=directory)
