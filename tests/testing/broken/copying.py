"""Providers with one defect each in copying."""

from uuid import uuid4

from cloudmanager.core.hookspecs import hookimpl
from cloudmanager.core.model import (
    Disk,
    DiskId,
    Snapshot,
)
from tests.testing.broken.provider import Broken, failing


@failing("test_declared_capabilities_are_those_that_are_offered")
class DeletesNothing(Broken):
    delete = None  # type: ignore[assignment]


@failing("test_a_disk_that_is_held_elsewhere_is_copied_and_the_copy_attached")
class RestoresAnother(Broken):
    @hookimpl
    def restore(self) -> Disk:  # type: ignore[override]
        return self.describe(DiskId(self._name, self.node().name))


@failing("test_a_copy_is_made_once")
class CopiesAgain(Broken):
    @hookimpl
    def snapshot(self, disk: Disk, name: str) -> Snapshot:
        return super().snapshot(disk, f"{name}-{uuid4().hex[:8]}")


@failing("test_what_was_made_is_deleted_and_nothing_else")
class DeletesAnything(Broken):
    @hookimpl
    def delete(self, item: Disk | Snapshot) -> None:
        if isinstance(item, Disk):
            self._parts().compute.delete_disk(self._named(item.id.native))
        else:
            super().delete(item)
