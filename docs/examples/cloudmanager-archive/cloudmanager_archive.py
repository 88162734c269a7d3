"""A provider of images on slow storage: attaching one copies it to a fast local disk.

A copy is named by its disk and by its slot, and the slot is the request id of the plan that made it. So a copy is known
as ours by the committed plan, after a crash too; one that somebody else put there is exported and never deleted.

An image that is replaced or written to is another disk, and a copy of it another one than before.
"""

import errno
import hashlib
import os
import re
import shutil
import socket
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cloudmanager import (
    Access,
    Attachment,
    AttachPlan,
    Device,
    Disk,
    DiskId,
    FileIdentity,
    Finding,
    Node,
    NotAttached,
    Page,
    Query,
    Severity,
    Snapshot,
    errors,
    hookimpl,
    refuse_replaced,
)
from pydantic import BaseModel, ConfigDict, Field

PAGE_SIZE = 100
CAN_GIVE = frozenset({Access.READ_ONLY, Access.SCRATCH})
"""No read-write: the copy that was written to is deleted when the disk is detached."""
COPIES, SNAPSHOTS = "copies", "snapshots"
"""Directories in the archive for what `restore` and `snapshot` make."""
NAME = re.compile(r"[^/.\0][^/\0]{0,199}")
ERRORS = {
    errno.EACCES: errors.AccessDenied,
    errno.EPERM: errors.AccessDenied,
    errno.ENOSPC: errors.AttachLimit,
    errno.EDQUOT: errors.AttachLimit,
}
"""What an error of the file system means. Any other may pass: the storage is away, or broken for a while."""


class ArchiveSettings(BaseModel):
    """Images on slow storage, each copied to a fast disk before it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    archive: Path = Field(description="Directory of the raw images.", json_schema_extra={"example": "/mnt/archive"})
    workspace: Path = Field(
        description="Directory on a fast disk, for the copies.", json_schema_extra={"example": "/var/cache/images"}
    )
    most_copies: int = Field(16, ge=1, description="How many copies there may be at once.")


class ArchiveProvider:
    type = "archive"
    Settings = ArchiveSettings

    def __init__(self, name: str, settings: ArchiveSettings) -> None:
        self._name = name
        self._archive = settings.archive.resolve()
        self._workspace = settings.workspace.resolve()
        self._most_copies = settings.most_copies
        self._copying = threading.Lock()  # one copy at a time: slow storage is slowest when it has to seek

    @hookimpl
    def node(self) -> Node:
        if not self._workspace.is_dir():
            raise errors.ConfigurationError(f"{self._workspace} is no directory: make it, or name another workspace.")
        return Node(socket.gethostname())

    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        image = self._image(disk_id)
        with _translated():
            disk = self._disk(disk_id, image)
        if disk is None:
            raise errors.DiskNotFound(f"There is no {disk_id.native!a} in {self._archive}. List what there is.")
        return disk

    @hookimpl
    def find(self, query: Query, page_token: str | None) -> Page[Disk]:
        if query.location or query.labels or query.state:
            return Page(())  # no image has any of these
        with _translated():
            natives = [each for each in sorted(self._natives()) if query.text.lower() in each.lower()]
            natives = [each for each in natives if each > (page_token or "")]
            named = [DiskId(self._name, native) for native in natives[:PAGE_SIZE]]
            disks = [self._disk(disk_id, self._image(disk_id)) for disk_id in named]
        next_page = natives[PAGE_SIZE - 1] if len(natives) > PAGE_SIZE else None
        return Page(tuple(filter(None, disks)), next_page)

    @hookimpl
    def plan_attach(self, disk: Disk, access: Access) -> AttachPlan:
        self._refuse_replaced(disk)
        with _translated():
            slots = self._slots(disk)
        request_id = str(uuid.uuid4())
        slot = slots[0] if slots else request_id
        return AttachPlan(disk, self.node(), Access.READ_ONLY, request_id, slot, is_present=bool(slots))

    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        with self._copying, _translated():
            self._refuse_replaced(plan.disk)
            slots = self._slots(plan.disk)
            if not slots:
                self._fetch(plan)
        if slots and (plan.is_present or plan.slot not in slots):
            return replace(plan.attachment(), slot=slots[0], request_id="")  # somebody else's
        return plan.attachment()

    @hookimpl
    def locate(self, disk: Disk) -> Device | NotAttached:
        self._refuse_replaced(disk)
        with _translated():
            slots = self._slots(disk)
            if not slots:
                return NotAttached(f"{disk.id} has not been copied.")
            copy = self._workspace / copy_name(disk, slots[0])
            found = copy.stat()
        if found.st_size != disk.size_bytes:
            raise errors.DeviceMismatch(f"{copy} has {found.st_size} bytes instead of {disk.size_bytes}: delete it.")
        identity = FileIdentity(found.st_dev, found.st_ino)
        return Device(str(copy), found.st_size, identity, incarnation=disk.incarnation)

    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        name = copy_name(attachment.disk, attachment.slot)
        with self._copying, _translated():
            for path in self._workspace.iterdir():
                if path.name in (name, _partial(name)):
                    path.unlink(missing_ok=True)

    @hookimpl
    def diagnose(self) -> Iterable[Finding]:
        with _translated():
            free, needed = shutil.disk_usage(self._workspace).free, self._largest_image()
        seen = f"{free >> 30} GiB are free, the largest image has {needed >> 30} GiB"
        if free < needed:
            return [Finding("workspace", Severity.WARNING, seen, f"Give {self._workspace} more room.")]
        return [Finding("workspace", Severity.OK, seen)]

    @hookimpl
    def snapshot(self, disk: Disk, name: str) -> Snapshot:
        target = self._made(SNAPSHOTS, name)
        with self._copying, _translated():
            self._keep(self._image(disk.id), target)
            size_bytes = target.stat().st_size
        return Snapshot(DiskId(self._name, f"{SNAPSHOTS}/{name}"), size_bytes)

    @hookimpl
    def restore(self, snapshot: Snapshot, name: str) -> Disk:
        target = self._made(COPIES, name)
        with self._copying, _translated():
            self._keep(self._archive / snapshot.id.native, target)
        return self.describe(DiskId(self._name, f"{COPIES}/{name}"))

    @hookimpl
    def delete(self, item: Disk | Snapshot) -> None:
        directory, _, name = item.id.native.rpartition("/")
        if directory not in (COPIES, SNAPSHOTS):
            raise errors.InvalidRequest(f"{item.id} was not made by cloudmanager: delete it by hand.")
        with _translated():
            self._archive.stat()  # an archive that is away proves nothing
            self._made(directory, name).unlink(missing_ok=True)

    def _image(self, disk_id: DiskId) -> Path:
        """The image's real path. A link in the archive is another name of the image that it leads to."""
        name = disk_id.native.removeprefix(f"{COPIES}/")
        image = Path(os.path.realpath(self._archive / disk_id.native)) if NAME.fullmatch(name) else None
        if image is None or image.parent not in (self._archive, self._archive / COPIES):
            raise errors.InvalidDiskId(f"{disk_id} is no name of an image: NAME, or {COPIES}/NAME, in {self._archive}.")
        return image

    def _natives(self) -> Iterator[str]:
        yield from _images(self._archive)
        if (self._archive / COPIES).is_dir():
            yield from (f"{COPIES}/{name}" for name in _images(self._archive / COPIES))

    def _disk(self, disk_id: DiskId, image: Path) -> Disk | None:
        """None when the image is certainly not there."""
        if not image.is_file():
            self._archive.stat()  # an archive that is away proves nothing
            return None
        found = image.stat()
        incarnation = f"{found.st_ino}.{found.st_mtime_ns}"
        return Disk(disk_id, f"archive:{image}", found.st_size, access=CAN_GIVE, incarnation=incarnation)

    def _refuse_replaced(self, disk: Disk) -> None:
        refuse_replaced(disk, self.describe(disk.id).incarnation)

    def _slots(self, disk: Disk) -> list[str]:
        """Of the disk's copies that are complete; ours has the request id of its plan."""
        prefix = copy_name(disk, "")
        names = [path.name for path in self._workspace.iterdir()]
        return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))

    def _fetch(self, plan: AttachPlan) -> None:
        copies = [path for path in self._workspace.iterdir() if not path.name.startswith(".")]
        if len(copies) >= self._most_copies:
            raise errors.AttachLimit(f"{self._workspace} has {len(copies)} copies: release some, or raise most_copies.")
        copy = self._workspace / copy_name(plan.disk, plan.slot)
        _copy(self._image(plan.disk.id), copy)
        try:
            self._refuse_replaced(plan.disk)  # nobody has seen the copy yet: this is done under the lock
        except errors.DiskReplaced:
            copy.unlink()
            raise

    def _made(self, directory: str, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise errors.InvalidRequest(f"{name!a} cannot be the name of a file: no slash, and no dot in front.")
        return self._archive / directory / name

    def _keep(self, source: Path, target: Path) -> None:
        """A copy in the archive, made once."""
        if not source.is_file():
            self._archive.stat()  # an archive that is away proves nothing
            raise errors.DiskNotFound(f"{source} is gone.")
        target.parent.mkdir(exist_ok=True)
        if not target.exists():
            _copy(source, target)

    def _largest_image(self) -> int:
        return max((path.stat().st_size for path in self._archive.iterdir() if path.is_file()), default=0)


def copy_name(disk: Disk, slot: str) -> str:
    """The copy's file name. A digest, so that images of one name in two archives do not meet."""
    whose = f"{disk.canonical_id} {disk.incarnation}"
    return f"{hashlib.sha256(whose.encode()).hexdigest()[:32]}.{slot}"


def _partial(name: str) -> str:
    return f".{name}"


def _copy(source: Path, target: Path) -> None:
    """Whoever sees the target sees all of it, also if this process is killed."""
    partial = target.with_name(_partial(target.name))
    try:
        shutil.copyfile(source, partial)
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)


def _images(directory: Path) -> Iterator[str]:
    with os.scandir(directory) as entries:
        yield from (each.name for each in entries if NAME.fullmatch(each.name) and each.is_file(follow_symlinks=False))


@contextmanager
def _translated() -> Iterator[None]:
    """Turns an error of the file system into one of cloudmanager's, with its own code kept."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        raise ERRORS.get(number, errors.CloudUnavailable)(
            f"{error.filename}: {error.strerror}. See that the storage is mounted, has room and may be used.",
            cloud_code=errno.errorcode.get(number),
        ) from error


@hookimpl
def register_providers() -> list[type]:
    return [ArchiveProvider]
