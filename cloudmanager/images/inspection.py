"""Decides which format a file has, and asks that format's module for the rest."""

from collections.abc import Callable
from pathlib import Path

from cloudmanager.images import dmg, names, parallels, qcow2, vdi, vhdx, vmdk, vpc
from cloudmanager.images.errors import BackedImage, EmptyImage, NotADisk, UnreasonableImage, UnsupportedImage
from cloudmanager.images.recognition import HEAD_BYTES, ContentGroup, FileKind, recognise
from cloudmanager.images.source import ByteSource, Image, ImageFile, TimeIsUp, round_up

FOOTER_BYTES = 512
_READERS: dict[str, Callable[[ByteSource], Image]] = {
    "parallels": parallels.read,
    "qcow2": qcow2.read,
    "vdi": vdi.read,
    "vhdx": vhdx.read,
    "vmdk": vmdk.read,
    "vmdk-descriptor": vmdk.refuse_descriptor,
    "vpc": vpc.read,
}
_ADVICE = {
    ContentGroup.COMPRESSED: "Decompress it first.",
    ContentGroup.ARCHIVE: "Take the disk's image out of it first.",
    ContentGroup.EVIDENCE: "Take the image out of it first, with `ewfexport -f raw` or the program that made it.",
    ContentGroup.OTHER: "Check its name.",
}


def inspect(
    file: ImageFile, *, path: Path | None = None, allow_backing: bool = False, check_tables: bool = True
) -> Image:
    """The image in an open file. Reads headers and tables, never the data, in bounded time and memory.

    With its `path` a piece of a disk is known by its name and its neighbours. With `allow_backing` an image may name a
    backing file, which the caller has to check; any other reference stays refused. Without `check_tables` whatever can
    be known from headers takes a moment; whether the image is whole is not. Raises ImageProblem.
    """
    source = ByteSource(file, has_tables=check_tables)
    _refuse_empty(source)
    try:
        image = _read(source)
    except TimeIsUp:
        raise UnreasonableImage(
            "The image's tables are too large to be checked in time. Convert it with `qemu-img convert -O qcow2`."
        ) from None
    if image.format == "raw" and path is not None:
        _refuse_piece(path.name, names.piece(path))
        _refuse_promise(path.name, source.up_to(0, HEAD_BYTES))
    if image.size_bytes == 0:
        raise EmptyImage("The image's virtual size is 0: there is nothing in it.")
    if image.backing is not None and not allow_backing:
        raise BackedImage(
            f"The image reads through another file ({image.backing!a}). Flatten it with `qemu-img convert`.",
            image.backing,
        )
    return image


def inspect_raw(file: ImageFile) -> Image:
    """The file as a raw image, whatever is in it. Raises EmptyImage, UnreadableImage."""
    source = ByteSource(file)
    _refuse_empty(source)
    return _raw(source)


def is_container(file: ImageFile) -> bool:
    """Whether the file says that it is a disk in a format of its own, read here or not. Raises UnreadableImage."""
    source = ByteSource(file)
    kind = recognise(source.up_to(0, HEAD_BYTES), source.size)
    return kind.group in (ContentGroup.IMAGE, ContentGroup.EVIDENCE) if kind else _by_footer(source) is not None


def _read(source: ByteSource) -> Image:
    kind = recognise(source.up_to(0, HEAD_BYTES), source.size)
    if kind and kind.group is ContentGroup.IMAGE:
        return _READERS[kind.name](source) if kind.name in _READERS else _refuse_format(kind)
    image = _by_footer(source)
    if kind and image is None:
        raise NotADisk(f"This is {kind.description}, not a disk. {_ADVICE[kind.group]}", kind.description)
    return image or _raw(source)


def _raw(source: ByteSource) -> Image:
    return Image("raw", round_up(source.size))


def refuse_raw_by_name(name: str, head: bytes, *, is_whole: bool) -> None:
    """For what looks raw and is no file here: on a web server, in an archive. Raises NotADisk.

    Until the whole of it has been seen it may still have the footer that its name promises.
    """
    _refuse_piece(name, names.lone_piece(name))
    if is_whole or not names.has_footer(name):
        _refuse_promise(name, head)


def _refuse_piece(name: str, whole: str | None) -> None:
    if whole:
        raise NotADisk(f"{name!a} is {whole}, not a disk. Join the pieces to one image first.", whole)


def _refuse_promise(name: str, head: bytes) -> None:
    format_words = names.other_format(name, head)
    if format_words:
        raise NotADisk(
            f"{name!a} is named like {format_words}, but is none: its header or footer is missing, so it is "
            "damaged or truncated. If it is a raw image, name it .raw.",
            f"no {format_words.split(maxsplit=1)[1]}",
        )
    other = names.format_without_mark(name)
    if other:
        raise NotADisk(
            f"{name!a} is named like {other}, not like a disk. Take the image out of it first. If it is a raw image, "
            "name it .raw.",
            other,
        )


def _refuse_empty(source: ByteSource) -> None:
    if source.size == 0:
        raise EmptyImage("The image has no bytes at all. Check that whatever wrote it has finished.")


def _by_footer(source: ByteSource) -> Image | None:
    footer = source.up_to(source.size - FOOTER_BYTES, FOOTER_BYTES) if source.size >= FOOTER_BYTES else b""
    return vpc.fixed(source, footer) or dmg.from_trailer(source, footer)


def _refuse_format(kind: FileKind) -> Image:
    raise UnsupportedImage(
        f"This is {kind.description}, a format that is not read here. Convert it to qcow2 or raw with its own "
        "program, or with `qemu-img convert -O qcow2` where QEMU reads it."
    )
