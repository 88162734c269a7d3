"""The hooks of the local provider."""

import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.hookspecs import hookimpl
from cloudmanager.core.model import (
    Access,
    Attachment,
    AttachPlan,
    Device,
    Disk,
    DiskId,
    Finding,
    Node,
    Page,
    Query,
)
from cloudmanager.providers.local.device_names import PREFIX
from cloudmanager.providers.local.devices import DeviceDisks
from cloudmanager.providers.local.doctor import findings
from cloudmanager.providers.local.holders import Holders
from cloudmanager.providers.local.images import ImageDisks
from cloudmanager.providers.local.listing import page
from cloudmanager.providers.local.roots import Roots
from cloudmanager.providers.local.settings import LocalSettings


class LocalProvider:
    """Image files and block devices of this machine."""

    type = "local"
    Settings = LocalSettings

    def __init__(self, name: str, settings: LocalSettings, roots: Roots | None = None) -> None:
        """`roots` is where the kernel's own directories are, if not in the usual place."""
        self._name = name
        self._settings = settings
        self._roots = roots or Roots()
        self._node = Node(socket.gethostname(), native_id=self._roots.machine())
        self._images = ImageDisks(name, settings, self._roots)
        self._devices = DeviceDisks(name, settings, self._roots)

    @hookimpl
    def keep_in(self, directory: Path) -> None:
        """The name of this machine, which all local providers of the service share."""
        self._roots.name.keep_in(directory / "machine")
        self._node = replace(self._node, native_id=self._roots.machine())

    @hookimpl
    def node(self) -> Node:
        return self._node

    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        return self._disks(disk_id).describe(disk_id)

    @hookimpl
    def find(self, query: Query, page_token: str | None) -> Page[Disk]:
        return page(self._images, self._devices, query, page_token)

    @hookimpl
    def plan_attach(self, disk: Disk, access: Access) -> AttachPlan:
        return AttachPlan(disk, self.node(), access, str(uuid4()), is_present=True)

    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        """Nothing to do: `locate` says whether the disk is still here."""
        return Attachment(plan.disk, plan.node, plan.access, plan.slot, plan.request_id)

    @hookimpl
    def locate(self, disk: Disk) -> Device:
        return self._disks(disk.id).locate(disk)

    @hookimpl
    def locate_all(self, disks: Sequence[Disk]) -> Mapping[DiskId, Device]:
        """Whoever holds what is read once for all. What is left out, `locate` says what is the matter with it."""
        holders = Holders(self._roots)
        images: list[Disk] = []
        devices: list[Disk] = []
        for disk in disks:
            (images if self._disks(disk.id) is self._images else devices).append(disk)
        located = self._images.locate_all(images, holders)
        for disk in devices:
            with suppress(CloudManagerError):
                located[disk.id] = self._devices.locate(disk, holders)
        return located

    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        """Nothing to do: the disk was here before, and stays."""

    @hookimpl
    def diagnose(self) -> Iterable[Finding]:
        return findings(self._settings, self._roots)

    def _disks(self, disk_id: DiskId) -> ImageDisks | DeviceDisks:
        """A path below /dev is a device's, unless an image directory is there, in /dev/shm say."""
        is_device = disk_id.native.startswith(PREFIX) and not self._images.have(disk_id.native)
        return self._devices if is_device else self._images
