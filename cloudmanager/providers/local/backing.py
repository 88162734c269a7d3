"""Resolves the backing files of an image, each one checked like the image itself."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cloudmanager.core.errors import DiskNotFound, ImageError, InvalidDiskId, UnsafeImage
from cloudmanager.core.inspection import inspect
from cloudmanager.core.model import Disk, FileIdentity
from cloudmanager.images import Image
from cloudmanager.providers.local.file_id import file_id, file_incarnation
from cloudmanager.providers.local.opened import OpenedImage, opened

MAX_LAYERS = 32
_JOINT = "+"
_PROTOCOL = re.compile(r"[^/]*:")
"""QEMU takes a name with a colon before the first slash for a URL, a driver's name or JSON."""


@dataclass(frozen=True)
class Layer:
    """One image of a chain: where it is, what it is, and which disk that makes it."""

    path: Path
    identity: FileIdentity
    canonical_id: str
    incarnation: str
    image: Image


def read_layers(
    top: OpenedImage, allowed: Sequence[Path], machine: str, *, check_tables: bool = True
) -> tuple[Layer, ...]:
    """The image and then the backing files that it reads through, each format decided by its own bytes.

    What an image says of its backing file's format is not believed: a guest that could write to a raw base could
    make it look like anything. A relative name starts at the real directory of the image that has it.
    Without `check_tables` nothing is known of whether they are whole. Raises ImageError and its kinds, DeviceError.
    """
    layers = [_layer(top, allowed, machine, check_tables)]
    while layers[-1].image.backing is not None:
        if len(layers) == MAX_LAYERS:
            raise UnsafeImage(f"The image has more than {MAX_LAYERS} layers. Shorten it with `qemu-img commit`.")
        layers.append(_backing(layers, layers[-1].image.backing, allowed, machine, check_tables))
    return tuple(layers)


def _layer(opened_image: OpenedImage, allowed: Sequence[Path], machine: str, check_tables: bool) -> Layer:
    image = inspect(opened_image.file, opened_image.path, allow_backing=bool(allowed), check_tables=check_tables)
    descriptor = opened_image.file.fileno()
    canonical_id, incarnation = file_id(descriptor, machine), file_incarnation(descriptor)
    return Layer(opened_image.path, opened_image.identity, canonical_id, incarnation, image)


def incarnation_of(layers: Sequence[Layer]) -> str:
    """That of a disk: of its image, and of those that it reads through."""
    return _JOINT.join(layer.incarnation for layer in layers)


def incarnation_of_image(disk: Disk) -> str:
    """Of its first image alone, as far as it is known."""
    return disk.incarnation.partition(_JOINT)[0]


def _backing(layers: Sequence[Layer], name: str, allowed: Sequence[Path], machine: str, check_tables: bool) -> Layer:
    path = _path(name, layers[-1].path)
    try:
        with opened(path, allowed) as backing:
            if any(layer.identity == backing.identity for layer in layers):
                raise UnsafeImage("it reads through itself. Rebuild the chain with `qemu-img rebase`.")
            return _layer(backing, allowed, machine, check_tables)
    except InvalidDiskId as error:
        raise UnsafeImage(f"The backing file is refused: {error.detail} See allow_backing_from.") from error
    except DiskNotFound as error:
        raise ImageError(f"The backing file {path} does not exist. Bring it back, or `qemu-img rebase` it.") from error
    except ImageError as error:
        raise type(error)(f"Backing file {path}: {error.detail}") from error


def _path(name: str, image: Path) -> Path:
    if not name or "\0" in name or _PROTOCOL.match(name):
        raise UnsafeImage(
            f"The image reads through {name!a}, which is no plain file. Flatten it with `qemu-img convert`."
        )
    return image.parent / name
