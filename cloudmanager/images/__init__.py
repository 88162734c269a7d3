"""What is in an image file: its format, its size, and what it refers to. Shared by the service and its clients.

QEMU never probes a format here: `inspect` decides it, and the server gets it as an option. The order of the
decision makes it safe:

1. A container's magic where that container has it, at the start of the file, wins over everything further back: a
   cluster of a qcow2 image may well hold something that looks like an ISO, a VHD footer or a dmg trailer, and QEMU's
   drivers look at the start too. A polyglot (a qcow2 header in the system area of an ISO 9660 image) is therefore
   the container, and its references are refused like any other's.
2. A complete, consistent footer makes a fixed VHD or a dmg. One that contradicts the file's size is only bytes in a
   raw disk's last sector, which any writer of that disk could put there; raw is then right and always safe.
3. What `recognise` knows to be no disk is refused: archives, compressed files, evidence containers, documents.
4. Everything else is raw: partition tables, file systems, LUKS, ISO images and noise. QEMU's raw driver interprets
   nothing.

A file that has a container's magic but not the rest of it is damaged, never raw.

This package imports nothing of the rest of cloudmanager. Its errors are those of `errors`; the core and the client
translate them, each in one place.
"""

from cloudmanager.images.errors import (
    BackedImage,
    DamagedImage,
    EmptyImage,
    ImageProblem,
    NotADisk,
    TruncatedImage,
    UnreadableImage,
    UnreasonableImage,
    UnsafeImage,
    UnsupportedImage,
)
from cloudmanager.images.inspection import inspect, inspect_raw, is_container, refuse_raw_by_name
from cloudmanager.images.recognition import HEAD_BYTES, ContentGroup, FileKind, recognise
from cloudmanager.images.source import Image, ImageFile

__all__ = [
    "HEAD_BYTES",
    "BackedImage",
    "ContentGroup",
    "DamagedImage",
    "EmptyImage",
    "FileKind",
    "Image",
    "ImageFile",
    "ImageProblem",
    "NotADisk",
    "TruncatedImage",
    "UnreadableImage",
    "UnreasonableImage",
    "UnsafeImage",
    "UnsupportedImage",
    "inspect",
    "inspect_raw",
    "is_container",
    "recognise",
    "refuse_raw_by_name",
]
