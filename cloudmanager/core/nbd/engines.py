"""qemu-nbd serves everything; nbdkit serves raw disks that are only read.

nbdkit answers with an error where a disk has a bad sector, to every client. qemu-nbd 7.2 hangs up on clients that take
an answer in several chunks, as those built on libnbd do. What nbdkit does otherwise, and why it is not the default:

- A client beyond `connections` is turned away, and does not wait until there is a place.
- It announces no block sizes and no FUA, and reads through the page cache.
- It opens the disk for each client anew. In the sandbox that is the very file or device that was checked, for it sees
  no other; so it is not used without one.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cloudmanager.core.model import Access
from cloudmanager.core.nbd import blockgraph
from cloudmanager.core.nbd.blockgraph import Node
from cloudmanager.core.nbd.engine import Engine
from cloudmanager.core.nbd.spec import ServerSpec
from cloudmanager.core.settings import NbdSettings

if TYPE_CHECKING:
    from cloudmanager.core.nbd.images import Image

_SECTOR_BYTES = 512
_NBDKIT_THREADS = 96
"""Of all connections together, below the limit of a server (`startup.THREADS_PER_SERVER`)."""
_MOST_FOR_ONE = 16


class QemuNbd(Engine):
    program = "qemu-nbd"
    package = "qemu-utils"
    can_be_held = True
    end_seconds = 10.0

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
        threads = max(1, min(_MOST_FOR_ONE, _NBDKIT_THREADS // settings.connections))
        return [
            *("--readonly", "--foreground", f"--threads={threads}", "--filter=limit", "--filter=exportname"),
            *("--filter=offset", "file", nodes[0].filename, f"limit={settings.connections}"),
            *("exportname-strict=true", "exportname-list=empty", self.name_option(spec.name)),
            *("offset=0", f"range={spec.served_bytes}"),
        ]


QEMU_NBD, NBDKIT = QemuNbd(), Nbdkit()
ENGINES: tuple[Engine, ...] = (QEMU_NBD, NBDKIT)


def chosen(settings: NbdSettings, spec: ServerSpec, images: "Sequence[Image]") -> Engine:
    """As it is configured, where nbdkit can keep what the export promises."""
    (top, *below) = images
    can_serve = (
        spec.access is Access.READ_ONLY
        and spec.device.format == "raw"
        and not below
        and top.uses_page_cache
        and spec.size_bytes % _SECTOR_BYTES == 0
        and settings.tls == "off"
        and settings.sandbox != "none"
    )
    return NBDKIT if settings.engine == "nbdkit" and can_serve else QEMU_NBD


def of_program(program: str) -> Engine | None:
    return next((engine for engine in ENGINES if engine.program == program), None)
