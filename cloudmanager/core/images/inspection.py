"""Decides which format a file has, and asks that format's module for the rest."""

from collections.abc import Callable
from typing import BinaryIO

from cloudmanager.core.errors import EmptyImage, ImageError, UnsafeImage
from cloudmanager.core.images import dmg, parallels, qcow2, vdi, vhdx, vmdk, vpc
from cloudmanager.core.images.image import Image
from cloudmanager.core.images.source import Source, round_up

HEAD_BYTES = 512
FOOTER_BYTES = 512

Reader = Callable[[Source], Image]


def inspect(file: BinaryIO, *, allow_backing: bool = False) -> Image:
    """The image in an open, seekable file. Reads headers and tables, never the data; moves the file's position.

    With `allow_backing` an image may name a backing file, which the caller has to check; any other reference stays
    refused. Raises EmptyImage, CorruptImage, UnsafeImage, ImageError for what QEMU cannot open as it is, and
    DeviceError if the file cannot be read.
    """
    source = Source(file)
    _refuse_empty(source)
    image = _read(source)
    if image.size_bytes == 0:
        raise EmptyImage("The image's virtual size is 0: there is nothing to export.")
    if image.backing is not None and not allow_backing:
        raise UnsafeImage(
            f"The image reads through another file ({image.backing!a}). Flatten it with `qemu-img convert`, or name "
            "the directory of its backing files in allow_backing_from."
        )
    return image


def inspect_raw(file: BinaryIO) -> Image:
    """The file as a raw image, whatever is in it. Raises EmptyImage, DeviceError."""
    source = Source(file)
    _refuse_empty(source)
    return _raw(source)


def is_container(file: BinaryIO) -> bool:
    """Whether the file says that it is something else than raw, damaged or not."""
    source = Source(file)
    return _by_magic(source.up_to(0, HEAD_BYTES)) is not None or _by_footer(source) is not None


def _read(source: Source) -> Image:
    head = source.up_to(0, HEAD_BYTES)
    reader = _by_magic(head)
    if reader:
        return reader(source)
    return _by_footer(source) or _raw(source)


def _raw(source: Source) -> Image:
    return Image("raw", round_up(source.size))


def _refuse_empty(source: Source) -> None:
    if source.size == 0:
        raise EmptyImage("The image has no bytes at all. Check that whatever wrote it has finished.")


def _by_magic(head: bytes) -> Reader | None:
    """Where two could match, the magic at offset 0 wins."""
    for magic, reader in _MAGICS:
        if head.startswith(magic):
            return reader
    if vmdk.is_descriptor(head):
        return vmdk.read_descriptor
    return vdi.read if head[vdi.MAGIC_OFFSET :].startswith(vdi.MAGIC) else None


def _by_footer(source: Source) -> Image | None:
    footer = source.up_to(source.size - FOOTER_BYTES, FOOTER_BYTES) if source.size >= FOOTER_BYTES else b""
    return vpc.fixed(source, footer) or dmg.from_trailer(source, footer)


def _refuse_qed(_source: Source) -> Image:
    raise ImageError(
        "QED images are not exported: the format is abandoned. Convert it with `qemu-img convert -O qcow2`."
    )


_MAGICS: tuple[tuple[bytes, Reader], ...] = (
    (qcow2.MAGIC, qcow2.read),
    (vmdk.MAGIC, vmdk.read),
    (vmdk.ESX_MAGIC, vmdk.refuse_esx),
    (vhdx.MAGIC, vhdx.read),
    (vpc.MAGIC, vpc.read),
    (b"QED\x00", _refuse_qed),
    *((magic, parallels.read) for magic in parallels.MAGICS),
)
