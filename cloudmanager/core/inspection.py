"""Looks into image files for the service: what `cloudmanager.images` finds, in the core's own errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import BoundedSemaphore
from typing import BinaryIO

from cloudmanager import images
from cloudmanager.core.errors import (
    CloudManagerError,
    CorruptImage,
    DeviceError,
    DeviceNotReady,
    EmptyImage,
    ImageError,
    NotADisk,
    UnreasonableImage,
    UnsafeImage,
)

_TRANSLATIONS: tuple[tuple[type[images.ImageProblem], type[CloudManagerError]], ...] = (
    (images.UnreadableImage, DeviceError),
    (images.EmptyImage, EmptyImage),
    (images.DamagedImage, CorruptImage),
    (images.UnsafeImage, UnsafeImage),
    (images.UnreasonableImage, UnreasonableImage),
    (images.UnsupportedImage, ImageError),
    (images.NotADisk, NotADisk),
)


def inspect(file: BinaryIO, path: Path, *, allow_backing: bool = False, check_tables: bool = True) -> images.Image:
    """The image in an open file, of that name. With `allow_backing` the caller checks the backing file.

    Raises ImageError and its kinds, DeviceError.
    """
    with _translated():
        return images.inspect(file, path=path, allow_backing=allow_backing, check_tables=check_tables)


def inspect_raw(file: BinaryIO) -> images.Image:
    """The file as a raw image, whatever is in it. Raises EmptyImage, DeviceError."""
    with _translated():
        return images.inspect_raw(file)


def is_container(file: BinaryIO) -> bool:
    """Whether the file says that it is something else than raw, damaged or not. Raises DeviceError."""
    with _translated():
        return images.is_container(file)


class Turns:
    """Inspections at a time: one may take seconds, and threads that wait for it cannot do other work."""

    def __init__(self, at_once: int = 2, wait_seconds: float = 2.0) -> None:
        self._free = BoundedSemaphore(at_once)
        self._wait_seconds = wait_seconds

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Raises DeviceNotReady when none was free for so long."""
        if not self._free.acquire(timeout=self._wait_seconds):
            raise DeviceNotReady("Other images are being inspected, which takes long. Ask again.", retry_after=5)
        try:
            yield
        finally:
            self._free.release()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except images.ImageProblem as problem:
        raise translated(problem) from problem


def translated(problem: images.ImageProblem) -> CloudManagerError:
    """The same as an error of the core."""
    kind = next(ours for theirs, ours in _TRANSLATIONS if isinstance(problem, theirs))
    return kind(problem.detail + _advice(problem))


def _advice(problem: images.ImageProblem) -> str:
    if isinstance(problem, images.BackedImage):
        return " Or name the directory of its backing files in allow_backing_from."
    if isinstance(problem, images.NotADisk):
        return " If it is a disk all the same, export it through a loop device."
    return ""
