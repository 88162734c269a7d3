"""How a deployment is to be done."""

import threading
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypedDict

from cloudmanager.client.deploy.progress import Listener, Progress
from cloudmanager.client.through import Through


class Format(StrEnum):
    """How an image's bytes are to be taken."""

    FOUND = "found"
    """As what they look like. What is no disk is refused."""
    RAW = "raw"
    """As a disk, whatever they look like."""


def _tell_nobody(progress: Progress) -> None:
    del progress


@dataclass(frozen=True)
class Options:
    """What `deploy` accepts besides its source and target."""

    image_format: Format = Format.FOUND
    """What the image is. By default its bytes decide."""
    overwrite: bool = False
    """Write to a target that is not empty."""
    any_sector_size: bool = False
    """Write an image whose partition table was made for sectors of another size than the target's."""
    verify: bool = False
    """Read the target back and compare it with the image."""
    grow: bool = False
    """Let the last partition and its file system fill the target."""
    resume: bool = True
    """Go on where an earlier run ended that was cut off. Otherwise that run is forgotten."""
    skip_bad: bool = False
    """Go on around ranges of the image that cannot be read, and write zeros there; the result lists them."""
    connections: int = 4
    """To the target and the source each; fewer where a server accepts fewer."""
    reconnect_seconds: float = 60.0
    """How long a lost connection is tried again without any success."""
    progress: Listener = _tell_nobody
    """Called in the calling thread, a few times in each second. What it raises ends the deployment."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    """Set it from another thread or a signal handler to end the deployment."""
    source_id: str = ""
    """What names the content of an NBD source, if its address does not."""
    target_id: str = ""
    """What names an NBD target, if its address does not: an address may change when the export is made anew."""
    through: Through | None = None
    """The service that exports the target: content may go through it, compressed, and checksums come from it."""
    journal_directory: Path | None = None
    """Where is kept what was written. None: $XDG_STATE_HOME/cloudmanager/deployments."""


class DeployOptions(TypedDict, total=False):
    """The keywords of `deploy`, as Options describes them."""

    image_format: Format
    overwrite: bool
    any_sector_size: bool
    verify: bool
    grow: bool
    resume: bool
    skip_bad: bool
    connections: int
    reconnect_seconds: float
    progress: Listener
    cancelled: threading.Event
    source_id: str
    target_id: str
    through: Through | None
    journal_directory: Path | None
