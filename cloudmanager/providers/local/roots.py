"""Where this machine describes itself."""

import hashlib
import hmac
import logging
import os
import socket
import threading
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cloudmanager.core.errors import ConfigurationError
from cloudmanager.core.exhaustion import raise_exhausted
from cloudmanager.linux.files import write_whole

_READ_BYTES = 65536
log = logging.getLogger(__name__)


class MachineName:
    """What a machine is called in canonical ids, from when it is first asked for on."""

    def __init__(self) -> None:
        self._name = ""
        self._lock = threading.Lock()

    def get(self, *sources: Path) -> str:
        """By the first of the files that has something to say, else by the host name."""
        with self._lock:
            if not self._name:
                self._name = next(filter(None, map(_digest, sources)), "") or socket.gethostname()
            return self._name

    def keep_in(self, file: Path) -> None:
        """From now on the name is what the file has; the name as it is now is written there if it has none.

        So it outlasts the service, and whatever becomes of the sources. Raises ConfigurationError.
        """
        with self._lock:
            if kept := read_text(file):
                if self._name and kept != self._name:
                    log.warning(
                        "this machine has another machine id than before; %s keeps what its disks are called", file
                    )
                self._name = kept
                return
            try:
                write_whole(file, self._name)
            except OSError as error:
                raise ConfigurationError(f"{file} cannot be written: {error.strerror}.") from error


def _digest(source: Path) -> str:
    """Empty where the file says nothing; `uninitialized` is what it has in the image of a machine."""
    text = read_text(source)
    if not text or text == "uninitialized":
        return ""
    return hmac.new(text.encode(), b"cloudmanager", hashlib.sha256).hexdigest()[:16]


@dataclass(frozen=True)
class Roots:
    """The directories that the kernel and the system fill. Another one where the machine's own is mounted elsewhere."""

    sys: Path = Path("/sys")
    dev: Path = Path("/dev")
    proc: Path = Path("/proc")
    machine_id: Path = Path("/etc/machine-id")
    name: MachineName = field(default_factory=MachineName, compare=False, repr=False)

    def machine(self) -> str:
        """Names this machine, the same after each boot, without giving its machine id away (machine-id(5)).

        Every canonical id has it, so it is found out once: a file that vanishes, or is empty for a while, must not
        give a disk a second id beside the claims on the first.
        """
        return self.name.get(self.machine_id, self.sys / "class/dmi/id/product_uuid")

    def boot(self) -> str:
        """Names this boot."""
        return self._boot_id

    @cached_property
    def _boot_id(self) -> str:
        return read_text(self.proc / "sys/kernel/random/boot_id")


def read_text(path: Path | str) -> str:
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
