"""qemu-nbd serves everything; nbdkit, where it is wanted and installed, serves raw disks that are only read.

nbdkit answers with an error where a disk has a bad sector, to every client. qemu-nbd 7.2 hangs up on clients that take
an answer in several chunks, as those built on libnbd do. What nbdkit does otherwise:

- It refuses clients when all its connection slots are taken, and queues none. Programs that make several connections
  fail where one is refused. So "auto" leaves a limit that a few clients would reach to qemu-nbd. With one connection
  slot it serves its clients in turn, and they wait.
- It announces no block sizes and no FUA, and reads through the page cache.
- It takes no TLS priority, but GnuTLS reads one from a file.
- It opens the disk for each client anew. In the sandbox that is the very file or device that was checked, for it sees
  no other; so it is not used without one. A device is found by its number, which the server keeps from being given
  away: it has the device open all the time.
"""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from cloudmanager.confined import Unconfinable, executable, qemu_nbd
from cloudmanager.confined.qemu_nbd import BlockNode
from cloudmanager.core.errors import ImageError
from cloudmanager.core.model import Access
from cloudmanager.core.nbd import tls
from cloudmanager.core.nbd.engine import Engine, ServerSpec, number_after
from cloudmanager.core.nbd.images import OpenImage
from cloudmanager.core.settings import NbdSettings

_ENOUGH_SLOTS = 32
"""For so many connections that hardly anybody is turned away: a worker with nbdfuse or nbdcopy makes four."""
_MOST_THREADS = 16
"""Of one connection; nbdkit's own choice."""
_NBDKIT_THREADS = 160
"""Of all connections together, well below the limit of a server (`startup.THREADS_PER_SERVER`): a refused client has
one too, for a moment."""
_LEAST_MEMORY_BYTES = 2**30
"""It reserves some 200 MiB, and 2 MiB for each thread, and does not survive it when it gets no more."""
_FILTERS = ("exportname", "offset")
_LIMIT, _IN_TURN = "limit=", "serialize=connections"
_PROBE_SECONDS = 10


class QemuNbd(Engine):
    program = "qemu-nbd"
    package = "qemu-utils"
    can_be_held = True
    queues = True
    end_seconds = 10.0

    def connection_slots(self, command_line: Sequence[str]) -> int:
        return number_after(qemu_nbd.SHARED, command_line)

    def accepts_beyond_slots(self, command_line: Sequence[str]) -> bool:  # noqa: ARG002 - it never does
        return False

    def name_option(self, name: str) -> str:
        return f"{qemu_nbd.EXPORT_NAME}{name}"

    def arguments(self, spec: ServerSpec, settings: NbdSettings, nodes: Sequence[BlockNode], keys: str) -> list[str]:
        options = ["--persistent", *(tls.qemu_arguments(settings, keys) if keys else [])]
        read_only = spec.access is Access.READ_ONLY
        try:
            return qemu_nbd.arguments(spec.name, settings.connections, nodes, read_only=read_only, options=options)
        except qemu_nbd.UnknownFormat as error:
            raise ImageError(str(error)) from error

    def environment(self, keys: str) -> Mapping[str, str]:  # noqa: ARG002 - its arguments say it all
        return {}


class Nbdkit(Engine):
    program = "nbdkit"
    package = "nbdkit"
    can_be_held = False
    queues = False
    end_seconds = 0.0
    """At SIGTERM it waits for its clients; it has nothing to write."""

    def name_option(self, name: str) -> str:
        return f"exportname={name}"

    def arguments(self, spec: ServerSpec, settings: NbdSettings, nodes: Sequence[BlockNode], keys: str) -> list[str]:
        """The outermost filter comes first. `offset` shows so many bytes, and opens nothing that has become shorter.

        Without keys the name is not listed to clients.
        """
        each = min(_MOST_THREADS, max(1, _NBDKIT_THREADS // settings.connections - 1))
        bound, value = ("limit", f"{_LIMIT}{settings.connections}")
        if settings.connections == 1:
            bound, value = ("noparallel", _IN_TURN)
        return [
            *("--readonly", "--foreground", f"--threads={each}"),
            *(tls.nbdkit_arguments(settings, keys) if keys else []),
            *(f"--filter={name}" for name in (bound, *_FILTERS)),
            *("file", nodes[0].filename, value),
            *(
                "exportname-strict=true",
                f"exportname-list={'explicit' if keys else 'empty'}",
                self.name_option(spec.name),
            ),
            *("offset=0", f"range={spec.served_bytes}"),
        ]

    def connection_slots(self, command_line: Sequence[str]) -> int:
        return 1 if self.accepts_beyond_slots(command_line) else number_after(_LIMIT, command_line)

    def accepts_beyond_slots(self, command_line: Sequence[str]) -> bool:
        return _IN_TURN in command_line

    def environment(self, keys: str) -> Mapping[str, str]:
        return tls.gnutls_environment(keys) if keys else {}

    def missing(self) -> str:
        """Why this machine cannot use it, for a person; empty where it can."""
        try:
            return _missing(executable(self.program, self.package))
        except Unconfinable as error:
            return str(error)


@lru_cache
def _missing(program: str) -> str:
    """Distributions may have the filters in packages of their own."""
    filters = [f"--filter={name}" for name in ("limit", "noparallel", *_FILTERS)]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    try:
        subprocess.run(
            [program, *filters, "file", "--dump-plugin"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_SECONDS,
            env=environment,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return f"{program} has no plugin file, or not the filters limit, noparallel, {', '.join(_FILTERS)}."
    return ""


QEMU_NBD, NBDKIT = QemuNbd(), Nbdkit()
ENGINES: tuple[Engine, ...] = (QEMU_NBD, NBDKIT)


def chosen(
    settings: NbdSettings, spec: ServerSpec, images: Sequence[OpenImage], can_make_node: Callable[[int], bool]
) -> Engine:
    """As it is configured, where nbdkit can keep what the export promises.

    `can_make_node`: for a device, by its number. nbdkit does not open one that the sandbox shows by a link.
    """
    if settings.engine == QEMU_NBD.program or not _can_serve(settings, spec, images):
        return QEMU_NBD
    if spec.device.is_block and not can_make_node(spec.device.identity.device):
        return QEMU_NBD
    return QEMU_NBD if settings.engine == "auto" and NBDKIT.missing() else NBDKIT


def _can_serve(settings: NbdSettings, spec: ServerSpec, images: Sequence[OpenImage]) -> bool:
    (top, *below) = images
    return (
        spec.access is Access.READ_ONLY
        and spec.device.format == "raw"
        and not below
        and top.uses_page_cache
        and 0 < spec.served_bytes <= top.bytes_now
        and can_be_used(settings)
    )


def can_be_used(settings: NbdSettings) -> bool:
    """Whether the configuration allows nbdkit and nbdkit can be used here."""
    return (
        settings.engine != QEMU_NBD.program
        and (settings.engine != "auto" or settings.connections >= _ENOUGH_SLOTS)
        and settings.sandbox != "none"
        and settings.memory_limit_bytes >= _LEAST_MEMORY_BYTES
    )


def of_program(program: str) -> Engine | None:
    return next((engine for engine in ENGINES if engine.program == program), None)
