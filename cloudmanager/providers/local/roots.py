"""Where this machine describes itself."""

import hashlib
import hmac
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from cloudmanager.core.exhaustion import raise_exhausted

_READ_BYTES = 65536


@dataclass(frozen=True)
class Roots:
    """The directories that the kernel and the system fill. Another one where the machine's own is mounted elsewhere."""

    sys: Path = Path("/sys")
    dev: Path = Path("/dev")
    proc: Path = Path("/proc")
    machine_id: Path = Path("/etc/machine-id")

    def machine(self) -> str:
        """Names this machine, the same after each boot, without giving its machine id away (machine-id(5))."""
        for source in (self.machine_id, self.sys / "class/dmi/id/product_uuid"):
            text = read_text(source)
            if text and text != "uninitialized":
                return hmac.new(text.encode(), b"cloudmanager", hashlib.sha256).hexdigest()[:16]
        return socket.gethostname()

    def boot(self) -> str:
        """Names this boot."""
        return read_text(self.proc / "sys/kernel/random/boot_id")


def read_text(path: Path) -> str:
    """A file of one line without its end; empty where there is none: attributes come and go with kernels.

    Without Python's file objects, which ask the kernel four times as much of a file that is read once.
    Raises ResourcesExhausted: what could not be looked at is not absent.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = b"".join(iter(lambda: os.read(descriptor, _READ_BYTES), b""))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise_exhausted(error)
        return ""
    return content.decode("utf-8", errors="replace").strip().strip("\0")
