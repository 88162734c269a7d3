"""The files and devices that a running server has open, or will open: what it serves is what was checked."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress

from cloudmanager.core.errors import DeviceMismatch, UnsafeImage
from cloudmanager.core.model import Device, FileIdentity
from cloudmanager.core.nbd import process
from cloudmanager.core.nbd.engine import program_of
from cloudmanager.core.nbd.engines import of_program
from cloudmanager.core.nbd.images import chain, identity_of, image_name

_NOT_OPEN = -1


def check_open_files(pid: int, disk: Device, own: Sequence[FileIdentity], inherited: Sequence[int] = ()) -> None:
    """That a server has opened the images of a disk, and no other file than those and `own`.

    The second is the last line of defence against an image that refers to other files. Descriptors that the server
    was given under the numbers `inherited` say nothing of what it has opened.
    Raises DeviceMismatch, UnsafeImage.
    """
    held = {identity_of(status) for number, status in open_files(pid) if number not in inherited}
    for image in chain(disk):
        if image.identity not in held:
            raise DeviceMismatch(f"{image.path} was replaced while it was being opened; nothing is served.")
    if held - {image.identity for image in chain(disk)} - set(own):
        raise UnsafeImage(f"{disk.path} made its server open a file that is not part of the disk.")


def open_files(pid: int) -> Iterator[tuple[int, os.stat_result]]:
    """The files and block devices that a process has open, by descriptor. Raises PermissionError."""
    for number in process.descriptors(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            status = os.stat(f"/proc/{pid}/fd/{number}")  # noqa: PTH116 - no Path per descriptor
            if stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode):
                yield number, status
    yield from _reachable(pid)


def _reachable(pid: int) -> Iterator[tuple[int, os.stat_result]]:
    """What a server will open for its next client, if it opens for each anew: its sandbox shows no other disk."""
    with suppress(OSError):
        engine = of_program(program_of(process.command_line(pid)))
        if engine is not None and not engine.can_be_held:
            yield _NOT_OPEN, os.stat(f"/proc/{pid}/root/{image_name(0)}")  # noqa: PTH116 - no Path per look
