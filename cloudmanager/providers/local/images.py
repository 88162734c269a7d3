"""Image files as disks."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cloudmanager.core.errors import AmbiguousDisk, CloudManagerError, DiskReplaced, ImageError
from cloudmanager.core.incarnation import is_replaced, refuse_replaced
from cloudmanager.core.inspection import Turns, inspect_raw, is_container
from cloudmanager.core.model import Access, Device, Disk, DiskId
from cloudmanager.providers.local.backing import Layer, incarnation_of, incarnation_of_image, read_layers
from cloudmanager.providers.local.directories import Entry, ImageDirectories, Place
from cloudmanager.providers.local.file_id import file_id, file_incarnation
from cloudmanager.providers.local.holders import Holders, identity_of
from cloudmanager.providers.local.opened import OpenedImage, opened
from cloudmanager.providers.local.roots import Roots
from cloudmanager.providers.local.settings import LocalSettings
from cloudmanager.providers.local.unchanged import Unchanged, now

_RAW_SUFFIXES = frozenset({".raw", ".img", ".dd", ".bin", ".iso", ".image", ".disk", ".000", ".001", ".vhd", ".dmg"})
_SMALLEST_UNNAMED_BYTES = 1024 * 1024
_UNKNOWN_FORMAT = "unknown"
_SECTOR_BYTES = 512
"""What QEMU gives a disk that is an image. What is in it may have been made for others: clients look."""
log = logging.getLogger(__name__)


class ImageDisks:
    """The images below the configured directories."""

    def __init__(self, provider: str, settings: LocalSettings, roots: Roots) -> None:
        self._provider = provider
        self._directories = ImageDirectories(settings.images)
        self._allow_backing_from = settings.allow_backing_from
        self._roots = roots
        self._turns = Turns()
        self._seen: dict[DiskId, Unchanged] = {}
        """What was located in an earlier round, for the next one."""

    def describe(self, disk_id: DiskId) -> Disk:
        place = self._directories.place(disk_id.native)
        with opened(place.path, self._directories.paths) as image:
            _refuse_ambiguous(disk_id, place, image)
            return self._disk(disk_id, image, Holders(self._roots))

    def have(self, native: str) -> bool:
        """Whether an absolute path is in an image directory."""
        return self._directories.have(Path(native))

    def locate(self, disk: Disk, holders: Holders | None = None) -> Device:
        """The image under the disk's name, if it still is that disk.

        A disk that was raw when it was described stays raw: its clients may write a container's magic into it.
        Raises DiskNotFound, DiskReplaced, ImageError.
        """
        place = self._directories.place(disk.id.native)
        with opened(place.path, self._directories.paths) as image:
            self._refuse_other(disk, image, place.path)
            layers = (_raw_layer(image, disk),) if disk.format == "raw" else self._layers(image)
        incarnation = incarnation_of(layers)
        if tuple(layer.canonical_id for layer in layers[1:]) != disk.backing or is_replaced(disk, incarnation):
            raise DiskReplaced(f"{disk.id} reads through other files now than when it was claimed. Ask again.")
        return replace(_device(layers, holders or Holders(self._roots)), incarnation=incarnation)

    def _refuse_other(self, disk: Disk, image: OpenedImage, path: Path) -> None:
        """Before it is read: another file need not be an image. Raises DiskReplaced."""
        if file_id(image.file.fileno(), self._roots.machine()) != disk.canonical_id:
            raise DiskReplaced(f"Another file is at {path} now than when {disk.id} was claimed. Ask again.")
        claimed = replace(disk, incarnation=incarnation_of_image(disk))
        refuse_replaced(claimed, file_incarnation(image.file.fileno()))

    def locate_all(self, disks: Sequence[Disk], holders: Holders) -> dict[DiskId, Device]:
        """As `locate`, every few seconds: what is as it was is not opened again. Leaves out what cannot be located."""
        located: dict[DiskId, Device] = {}
        for disk in disks:
            before = self._seen.get(disk.id)
            if before and before.is_of(disk) and before.is_so():
                located[disk.id] = _held(before.device, holders)
                continue
            self._seen.pop(disk.id, None)
            with suppress(CloudManagerError):
                located[disk.id] = self._look_again(disk, holders)
        if len(self._seen) > len(disks):
            self._seen = {disk.id: self._seen[disk.id] for disk in disks if disk.id in self._seen}
        return located

    def _look_again(self, disk: Disk, holders: Holders) -> Device:
        began = now()
        device = self.locate(disk, holders)
        if unchanged := Unchanged.since(began, disk, device, self._directories.place(disk.id.native)):
            self._seen[disk.id] = unchanged
        return device

    def list(
        self, after: tuple[int, tuple[str, ...]], is_wanted: Callable[[str], bool] = bool
    ) -> Iterator[tuple[Disk, Entry]]:
        """What looks like a disk, of the names that are wanted: a container by its bytes, or a raw image by its name
        or size.

        A raw image has no mark of its own, so of the files that are no container those are listed that have a usual
        suffix, or at least a mebibyte in whole sectors. Other regular files can be exported by their names, unless they
        are known to be no disk. An image that cannot be exported is listed with no access, and its description says
        why; that it is truncated is found when it is described.
        """
        holders = Holders(self._roots)
        for entry in self._directories.walk(after):
            disk = self._listed(entry, holders) if is_wanted(entry.native) else None
            if disk:
                yield disk, entry

    def _listed(self, entry: Entry, holders: Holders) -> Disk | None:
        try:
            disk_id = DiskId.parse(f"{self._provider}:{entry.native}")
            with opened(entry.path, self._directories.paths) as image:
                if not _looks_like_a_disk(image, entry.path):
                    return None
                return self._listed_image(disk_id, image, holders)
        except CloudManagerError as error:
            log.info("%a is left out of the list: %s", str(entry.path), error.detail)
            return None

    def _listed_image(self, disk_id: DiskId, image: OpenedImage, holders: Holders) -> Disk:
        try:
            return self._disk(disk_id, image, holders, check_tables=False)
        except ImageError as error:
            return Disk(
                disk_id,
                file_id(image.file.fileno(), self._roots.machine()),
                0,
                format=_UNKNOWN_FORMAT,
                description=error.detail,
                access=frozenset(),
                actual_size_bytes=image.stored_bytes,
                incarnation=file_incarnation(image.file.fileno()),
            )

    def _layers(self, image: OpenedImage, *, check_tables: bool = True) -> tuple[Layer, ...]:
        with self._turns.taken():
            return read_layers(image, self._allow_backing_from, self._roots.machine(), check_tables=check_tables)

    def _disk(self, disk_id: DiskId, image: OpenedImage, holders: Holders, *, check_tables: bool = True) -> Disk:
        layers = self._layers(image, check_tables=check_tables)
        top, *backing = layers
        held_by = tuple(holder.name for holder in holders.of(top.identity))
        reasons = [reason for reason in (top.image.read_only_because, image.refuses_writes()) if reason]
        return Disk(
            disk_id,
            top.canonical_id,
            top.image.size_bytes,
            format=top.image.format,
            description=" ".join(reasons),
            access=frozenset(Access) - ({Access.READ_WRITE} if reasons or held_by else set()),
            held_by=held_by,
            backing=tuple(layer.canonical_id for layer in backing),
            actual_size_bytes=image.stored_bytes,
            logical_sector_bytes=_SECTOR_BYTES,
            incarnation=incarnation_of(layers),
        )


def _raw_layer(image: OpenedImage, disk: Disk) -> Layer:
    incarnation = file_incarnation(image.file.fileno())
    return Layer(image.path, image.identity, disk.canonical_id, incarnation, inspect_raw(image.file))


def _device(layers: Sequence[Layer], holders: Holders) -> Device:
    top, *backing = layers
    return Device(
        str(top.path),
        top.image.size_bytes,
        top.identity,
        format=top.image.format,
        driver_options=top.image.driver_options,
        backing=_device(backing, holders) if backing else None,
        is_stable=not holders.may_write(top.identity),
    )


def _held(device: Device, holders: Holders) -> Device:
    """The device with what its holders make of it now."""
    backing = _held(device.backing, holders) if device.backing else None
    is_stable = not holders.may_write(device.identity)
    if is_stable == device.is_stable and backing is device.backing:
        return device
    return replace(device, is_stable=is_stable, backing=backing)


def _looks_like_a_disk(image: OpenedImage, path: Path) -> bool:
    size = image.status.st_size
    is_whole_sectors = size >= _SMALLEST_UNNAMED_BYTES and size % 512 == 0
    return path.suffix.lower() in _RAW_SUFFIXES or is_whole_sectors or is_container(image.file)


def _refuse_ambiguous(disk_id: DiskId, place: Place, image: OpenedImage) -> None:
    """Raises AmbiguousDisk when another directory has another file of that name."""
    others = [other for other in place.others if identity_of(other) not in (None, image.identity)]
    if others:
        names = ", ".join(f"{disk_id.provider}:{path}" for path in (place.path, *others))
        raise AmbiguousDisk(
            f"{1 + len(others)} image directories have a {disk_id.native}: {names}. Use one of these names."
        )
