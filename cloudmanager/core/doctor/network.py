"""The addresses and ports that the service will listen on."""

import errno
import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

from cloudmanager.core import certificates
from cloudmanager.core.model import Finding, Severity
from cloudmanager.core.settings import NbdSettings, Settings, parse_listen, parse_ports

HTTP = "HTTP address"
NBD = "NBD address"
PORTS = "NBD ports"
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def check_network(settings: Settings) -> Iterator[Finding]:
    yield _check_http(parse_listen(settings.server.listen))
    address = _check_address(settings.nbd.listen)
    yield address
    if address.severity is Severity.OK:
        yield _check_ports(settings.nbd.listen, parse_ports(settings.nbd.ports))
    yield _check_advertised(settings.nbd)


def _check_http(listen: Path | tuple[str, int]) -> Finding:
    if isinstance(listen, Path):
        return _check_socket_directory(listen)
    host, port = listen
    obstacle = _obstacle(host, port)
    if obstacle and obstacle.errno == errno.EADDRINUSE:
        return Finding(
            HTTP,
            Severity.WARNING,
            f"port {port} of {host} is in use",
            "If that is this service, all is well; else set [server] listen to another port.",
        )
    if obstacle:
        advice = "Set [server] listen to an address of this machine and a port that this user may use."
        return Finding(HTTP, Severity.PROBLEM, f"{host} port {port}: {obstacle.strerror}", advice)
    return Finding(HTTP, Severity.OK, f"{host} port {port} is free")


def _check_socket_directory(path: Path) -> Finding:
    if path.parent.is_dir():
        return Finding(HTTP, Severity.OK, f"unix socket {path}")
    return Finding(HTTP, Severity.PROBLEM, f"{path.parent} does not exist", f"mkdir -p {path.parent}")


def _check_address(host: str) -> Finding:
    obstacle = _obstacle(host, 0)
    if obstacle:
        advice = "Set [nbd] listen to an address of this machine, 127.0.0.1 or 0.0.0.0."
        return Finding(NBD, Severity.PROBLEM, f"{host}: {obstacle.strerror}", advice)
    return Finding(NBD, Severity.OK, host)


def _check_ports(host: str, ports: range) -> Finding:
    busy = [port for port in ports if _obstacle(host, port)]
    seen = f"{len(ports) - len(busy)} of {len(ports)} are free ({ports[0]} to {ports[-1]})"
    if len(busy) == len(ports):
        return Finding(PORTS, Severity.PROBLEM, seen, "Set [nbd] ports to a range that nothing else uses.")
    if busy:
        advice = "If running exports use the others, all is well; else choose another range for [nbd] ports."
        return Finding(PORTS, Severity.WARNING, f"{seen}; in use: {_spans(busy)}", advice)
    if ephemeral := _shared_with_outgoing(ports):
        advice = "Choose [nbd] ports outside of it, or reserve them: sysctl net.ipv4.ip_local_reserved_ports."
        return Finding(PORTS, Severity.WARNING, f"{seen}, but outgoing connections use {ephemeral} too", advice)
    return Finding(PORTS, Severity.OK, seen)


def _shared_with_outgoing(ports: range) -> str:
    first, last = map(int, _EPHEMERAL.read_text().split())
    return f"{first} to {last}" if ports[0] <= last and first <= ports[-1] else ""


def _spans(ports: list[int]) -> str:
    """`10900-10903, 10950`, shortened after the fifth."""
    groups = [list(group) for _, group in itertools.groupby(ports, lambda port: port - ports.index(port))]
    spans = [f"{group[0]}-{group[-1]}" if len(group) > 1 else str(group[0]) for group in groups]
    return ", ".join([*spans[:5], *(["…"] if len(spans) > 5 else [])])


def _check_advertised(nbd: NbdSettings) -> Finding:
    subject, host = "address for clients", nbd.advertised
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        advice = "Set [nbd] advertise to a name or address by which clients reach this machine."
        return Finding(subject, Severity.WARNING, f"{host} is not known here ({error.strerror})", advice)
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return Finding(subject, Severity.PROBLEM, f"{host} is no address to connect to", "Set [nbd] advertise.")
    if nbd.caution:
        seen, _, advice = nbd.caution.partition(". ")
        return Finding(subject, Severity.WARNING, seen, advice)
    return Finding(subject, Severity.OK, host)


def _obstacle(host: str, port: int) -> OSError | None:
    """What keeps the service from binding there. Binds as the service does, and closes the socket at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        return error
    return None


def check_certificates(settings: Settings) -> Iterator[Finding]:
    if settings.nbd.certificates:
        yield from certificates.findings(settings.nbd.certificates, settings.nbd.advertised)
