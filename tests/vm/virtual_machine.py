"""A booted test machine: QEMU in software emulation, Debian's cloud kernel, and a way in."""

import re
import socket
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from cloudmanager.testing.cloud.machine import Machine, hotplug_arguments
from cloudmanager.testing.cloud.qmp import Qmp, QmpError
from tests.vm.agent import GuestAgent

ADDRESS = "10.0.2.15"
"""The machine's, in the network that QEMU's user mode plays."""
HOST = "10.0.2.2"
"""This machine's loopback address, as it is seen from there."""
START_SECONDS = 60
BOOT_SECONDS = 400
AGENT_PORT = "agent-port"
TIMEOUT_SECONDS = "no_timer_check"
"""Of the kernel: it waits ten ticks for its timer, and would panic where this machine is too busy for them."""


class VirtualMachine:
    """A context manager. The disk of the image is never written to: what the machine writes goes with it."""

    def __init__(self, directory: Path, image: Path, code: Path, ports: Sequence[int]) -> None:
        """`code` is the file system at /opt/code; `ports` are those of the machine that can be reached from here."""
        self._directory = directory
        self._logs = (directory / "qemu.log", directory / "console.log")
        self._command = self._qemu(image, code, ports)
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        """Returns when the machine has booted. Raises RuntimeError with what was printed on the way."""
        try:
            self._boot()
        except (TimeoutError, QmpError) as error:
            printed = "\n".join(log.read_text(errors="replace")[-4000:] for log in self._logs if log.exists())
            raise RuntimeError(f"the test machine did not come up: {error}\n{printed}") from error
        return self

    def _boot(self) -> None:
        with ExitStack() as cleanup:
            monitor, agent = (cleanup.enter_context(listener(self._directory / name)) for name in ("monitor", "agent"))
            with self._logs[0].open("wb") as log:
                process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stderr=log)
            cleanup.callback(_end, process)
            self.monitor = Qmp(cleanup.enter_context(monitor.accept()[0]))
            self.agent = GuestAgent(cleanup.enter_context(agent.accept()[0]))
            self.monitor.wait_for("VSERPORT_CHANGE", BOOT_SECONDS, id=AGENT_PORT, open=True)
            self.machine = Machine(self.monitor)
            self._ports = _forwarded(self.monitor)
            self._cleanup = cleanup.pop_all()

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def port_here(self, port: int) -> int:
        """Where a port of the machine is reached on this machine's loopback address."""
        return self._ports[port]

    def _qemu(self, image: Path, code: Path, ports: Sequence[int]) -> list[str]:
        root = f"if=none,id=root,format=raw,snapshot=on,file={image / 'root.ext4'}"
        forwards = "".join(f",hostfwd=tcp:127.0.0.1:0-{ADDRESS}:{port}" for port in ports)
        devices = [
            # Namespaces of one controller, so that their names do not depend on which is found first.
            "nvme,id=system,serial=system",
            "nvme-ns,drive=root,bus=system,nsid=1",
            "nvme-ns,drive=code,bus=system,nsid=2",
            "virtio-net-pci,netdev=network,romfile=",
            "virtio-rng-pci",
            "virtio-serial-pci",
            f"virtserialport,id={AGENT_PORT},chardev=agent,name=org.qemu.guest_agent.0",
        ]
        return [
            *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"),
            *("-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2G"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-kernel", str(image / "vmlinuz")),
            *(
                "-append",
                f"root=/dev/nvme0n1 rw quiet console=ttyS0 net.ifnames=0 panic=-1 mitigations=off {TIMEOUT_SECONDS}",
            ),
            *("-serial", f"file:{self._logs[1]}", "-qmp", f"unix:{self._directory / 'monitor'}"),
            *("-chardev", f"socket,id=agent,path={self._directory / 'agent'}"),
            *("-drive", root, "-drive", f"if=none,id=code,format=raw,readonly=on,file={code}"),
            *("-netdev", f"user,id=network{forwards}"),
            *(word for device in devices for word in ("-device", device)),
            *hotplug_arguments(),
        ]


def listener(path: Path) -> socket.socket:
    """Where QEMU connects to when it starts."""
    listener = socket.socket(socket.AF_UNIX)
    listener.settimeout(START_SECONDS)
    listener.bind(str(path))
    listener.listen()
    return listener


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(timeout=20)


def _forwarded(monitor: Qmp) -> dict[int, int]:
    """Port in the machine → port here, which the kernel chose. Only a table for people tells it."""
    table = monitor.execute("human-monitor-command", {"command-line": "info usernet"})
    found = re.findall(rf"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+{re.escape(ADDRESS)}\s+(\d+)", table)
    return {int(port): int(here) for here, port in found}
