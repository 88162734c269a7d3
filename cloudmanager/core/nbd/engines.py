"""qemu-nbd serves everything; nbdkit, where it is wanted and installed, serves raw disks that are only read.

nbdkit answers with an error where a disk has a bad sector, to every client. qemu-nbd 7.2 hangs up on clients that take
an answer in several chunks, as those built on libnbd do. What nbdkit does otherwise:

- It accepts 32 clients though `connections` are fewer, and turns away who comes then. It can let nobody wait until
  there is a place, and programs that make several connections fail where one is refused. With one place it serves
  its clients in turn, and they wait.
- It announces no block sizes and no FUA, and reads through the page cache.
- It opens the disk for each client anew. In the sandbox that is the very file or device that was checked, for it sees
  no other; so it is not used without one. A device is found by its number, which the server keeps from being given
  away: it has the device open all the time.
"""

import os
import subprocess
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from cloudmanager.confined import Unconfinable, executable
from cloudmanager.core.model import Access
from cloudmanager.core.nbd import blockgraph
from cloudmanager.core.nbd.blockgraph import Node
from cloudmanager.core.nbd.engine import Engine, ServerSpec
from cloudmanager.core.settings import NbdSettings

if TYPE_CHECKING:
    from cloudmanager.core.nbd.images import Image

_LEAST_PLACES = 32
_NBDKIT_THREADS = 160
"""Of all connections together, well below the limit of a server (`startup.THREADS_PER_SERVER`): who is turned away has
one too, for a moment."""
_LEAST_MEMORY_BYTES = 2**30
"""It reserves some 200 MiB, and 2 MiB for each thread, and does not survive it when it gets no more."""
_FILTERS = ("exportname", "offset")
_PROBE_SECONDS = 10


class QemuNbd(Engine):
    program = "qemu-nbd"
    package = "qemu-utils"
    can_be_held = True
    end_seconds = 10.0

    def accepts_who_waits(self, settings: NbdSettings) -> bool:  # noqa: ARG002 - it never does
        return False

    def places(self, settings: NbdSettings) -> int:
        return settings.connections

    def name_option(self, name: str) -> str:
        return f"--export-name={name}"

    def arguments(
        self, spec: ServerSpec, settings: NbdSettings, nodes: Sequence[Node], tls: Sequence[str]
    ) -> list[str]:
        return [
            *("--persistent", f"--shared={settings.connections}", self.name_option(spec.name), *tls),
            *(["--read-only"] if spec.access is Access.READ_ONLY else []),
            blockgraph.filename(nodes),
        ]


class Nbdkit(Engine):
    program = "nbdkit"
    package = "nbdkit"
    can_be_held = False
    end_seconds = 0.0
    """Told to end, it waits for its clients; it has nothing to write."""

    def name_option(self, name: str) -> str:
        return f"exportname={name}"

    def arguments(
        self,
        spec: ServerSpec,
        settings: NbdSettings,
        nodes: Sequence[Node],
        tls: Sequence[str],  # noqa: ARG002 - it serves in the clear only
    ) -> list[str]:
        """The outermost filter comes first. `offset` shows so many bytes, and opens nothing that has become shorter."""
        each = max(1, _NBDKIT_THREADS // self.places(settings) - 1)
        bound, value = ("limit", f"limit={self.places(settings)}")
        if self.accepts_who_waits(settings):
            bound, value = ("noparallel", "serialize=connections")
        return [
            *("--readonly", "--foreground", f"--threads={each}"),
            *(f"--filter={name}" for name in (bound, *_FILTERS)),
            *("file", nodes[0].filename, value),
            *("exportname-strict=true", "exportname-list=empty", self.name_option(spec.name)),
            *("offset=0", f"range={spec.served_bytes}"),
        ]

    def accepts_who_waits(self, settings: NbdSettings) -> bool:
        return settings.connections == 1

    def places(self, settings: NbdSettings) -> int:
        return 1 if self.accepts_who_waits(settings) else max(settings.connections, _LEAST_PLACES)

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
    settings: NbdSettings, spec: ServerSpec, images: "Sequence[Image]", can_make_node: Callable[[int], bool]
) -> Engine:
    """As it is configured, where nbdkit can keep what the export promises.

    `can_make_node`: for a device, by its number. nbdkit does not open one that the sandbox shows by a link.
    """
    if settings.engine == QEMU_NBD.program or not _can_serve(settings, spec, images):
        return QEMU_NBD
    if spec.device.is_block and not can_make_node(spec.device.identity.device):
        return QEMU_NBD
    return QEMU_NBD if settings.engine == "auto" and NBDKIT.missing() else NBDKIT


def _can_serve(settings: NbdSettings, spec: ServerSpec, images: "Sequence[Image]") -> bool:
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
    """Whether nbdkit is configured to serve anything, and may."""
    return (
        settings.engine != QEMU_NBD.program
        and settings.tls == "off"
        and settings.sandbox != "none"
        and settings.memory_limit_bytes >= _LEAST_MEMORY_BYTES
    )


def of_program(program: str) -> Engine | None:
    return next((engine for engine in ENGINES if engine.program == program), None)
