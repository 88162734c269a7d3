"""The kernel's own NBD client, in the virtual machine of tests/vm: this machine's kernel may not have one."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.rig import leftovers
from tests.vm.agent import RUN_SECONDS
from tests.vm.virtual_machine import VirtualMachine

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / ".cache/guest"
DISK_MEGABYTES = 64
READ_SECONDS = 300
_TOOLS = "/opt/code"
"""Where the machine mounts the second disk that it is given."""
_DEVICE = "/dev/nbd0"
_METER = Path(__file__).with_name("meter.py")
_RECEIVE = """
import socket, time
source, began, total = socket.create_connection(({host!r}, {port})), time.perf_counter(), 0
while size := len(source.recv(1 << 20)):
    total += size
print(total / (time.perf_counter() - began))
"""


@dataclass(frozen=True)
class KernelClient:
    """A booted machine. Everything in it is emulated in software, its network too."""

    machine: VirtualMachine

    @contextmanager
    def connected(self, uri: str) -> Iterator[None]:
        """As /dev/nbd0. This machine's addresses are reached through QEMU's network."""
        where = urlsplit(uri)
        name = where.path.removeprefix("/")
        words = f"{where.hostname} {where.port} {_DEVICE} -name '{name}'"
        self._say(f"modprobe nbd && {_run('nbd-client')} {words}")
        try:
            yield
        finally:
            self._say(f"{_run('nbd-client')} -d {_DEVICE}")

    def dd(self, skip_bytes: int) -> float:
        """Bytes per second of the connected disk, which the machine has not cached, after the first so many."""
        meter = f"python3 {_TOOLS}/{_METER.name} {skip_bytes}"
        command = f"blockdev --flushbufs {_DEVICE} && dd if={_DEVICE} bs=1M status=none | {meter}"
        return float(self._say(command, READ_SECONDS))

    def receive(self, host: str, port: int) -> float:
        """Bytes per second of a plain TCP stream: what the machine's network can do at most."""
        program = _RECEIVE.format(host=host, port=port)
        return float(self.machine.agent.read(f"python3 -c '{program.replace(chr(39), chr(34))}'", READ_SECONDS))

    def _say(self, command: str, timeout: float = RUN_SECONDS) -> str:
        return self.machine.agent.read(command, timeout)


@contextmanager
def kernel_client() -> Iterator[KernelClient]:
    """Boots the machine: a minute, and a few more when its image has to be made."""
    subprocess.run([ROOT / "scripts/make-guest-image", IMAGE], check=True, cwd=ROOT)
    with leftovers.directory() as directory:
        tools = _tools(directory)
        with VirtualMachine(directory, IMAGE, tools, []) as machine:
            yield KernelClient(machine)


def _tools(directory: Path) -> Path:
    """A file system with this machine's nbd-client and the libraries that it needs: the image has none."""
    content = directory / "tools"
    content.mkdir()
    program = shutil.which("nbd-client") or "/usr/sbin/nbd-client"
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    for file in [program, *re.findall(r"(/\S+)", listed)]:
        target = "loader" if "/ld-linux" in file else Path(file).name
        (content / target).write_bytes(Path(file).read_bytes())
        (content / target).chmod(0o755)
    shutil.copy(_METER, content)
    image = directory / "tools.ext4"
    make = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(content), str(image), f"{DISK_MEGABYTES}M"]
    subprocess.run(make, check=True, capture_output=True)
    return image


def _run(program: str) -> str:
    return f"{_TOOLS}/loader --library-path {_TOOLS} {_TOOLS}/{program}"
