"""Hosts on this machine: network namespaces with an address each, and links of a given rate between them."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import getpid

_SUBNET = "198.18.{}.{}"
"""Of the range that RFC 2544 sets aside for benchmarks. The third byte tells networks on one machine apart."""
_QUEUE = ("burst", "256kb", "latency", "50ms")


@dataclass(frozen=True)
class Network:
    """A bridge of this machine, and hosts that are connected to it."""

    address: str
    """This machine's."""
    far_address: str
    """This machine's too: for what is made to look as if it was far away."""
    hosts: tuple[str, ...]
    """Network namespaces."""
    ports: tuple[str, ...]
    """This machine's ends of the cables, in the order of the hosts."""

    def limit(self, megabits: int) -> None:
        """Each host's link in both directions; 0 for as fast as this machine can."""
        for host, port in zip(self.hosts, self.ports, strict=True):
            for where in ((), ("netns", "exec", host)):
                tc = ["ip", *where, "tc"] if where else ["tc"]
                device = "eth0" if where else port
                subprocess.run([*tc, "qdisc", "del", "dev", device, "root"], check=False, capture_output=True)
                if megabits:
                    _run(*tc, "qdisc", "add", "dev", device, "root", "tbf", "rate", f"{megabits}mbit", *_QUEUE)


@contextmanager
def network(hosts: int) -> Iterator[Network]:
    """Needs root. Addresses: this machine is 1, the hosts are 2, 3, …"""
    with ExitStack() as cleanup:
        number = getpid() % 250
        bridge = f"cmb{getpid()}"
        _run("ip", "link", "add", bridge, "type", "bridge")
        cleanup.callback(_run, "ip", "link", "delete", bridge)
        address, far_address = _SUBNET.format(number, 1), _SUBNET.format(number, 254)
        for each in (address, far_address):
            _run("ip", "address", "add", f"{each}/24", "dev", bridge)
        _run("ip", "link", "set", bridge, "up")
        names = tuple(f"cmb{getpid()}-{each}" for each in range(hosts))
        ports = tuple(f"cmb{getpid()}p{each}" for each in range(hosts))
        for host, (name, port) in enumerate(zip(names, ports, strict=True), 2):
            _run("ip", "netns", "add", name)
            cleanup.callback(_run, "ip", "netns", "delete", name)
            _connect(name, port, bridge, f"{_SUBNET.format(number, host)}/24")
            cleanup.callback(_run, "ip", "link", "delete", port)  # a namespace's own end goes some time after it
        yield Network(address, far_address, names, ports)


def _connect(host: str, port: str, bridge: str, address: str) -> None:
    _run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host)
    _run("ip", "link", "set", port, "master", bridge, "up")
    for command in (
        ("address", "add", address, "dev", "eth0"),
        ("link", "set", "eth0", "up"),
        ("link", "set", "lo", "up"),
    ):
        _run("ip", "-netns", host, *command)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
