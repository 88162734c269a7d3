"""What is done to an emulated cloud by hand: at its console, not by a call of the API under test."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from cloudmanager.testing.cloud.calls import CallLog
from cloudmanager.testing.cloud.faults import Faults
from cloudmanager.testing.cloud.guest import Guest
from cloudmanager.testing.cloud.limits import Limits
from cloudmanager.testing.cloud.timeline import Timeline

GIB = 1024**3


class ManualActions(ABC):
    """What the control API offers of a cloud, and a test may call."""

    calls: CallLog
    faults: Faults
    limits: Limits
    timeline: Timeline

    @abstractmethod
    def make_instance(self, name: str, *, location: str = "") -> Guest:
        """A running machine with its boot disk."""

    @abstractmethod
    def make_disk(
        self,
        name: str,
        *,
        location: str = "",
        size_bytes: int = GIB,
        content: Path | None = None,
        labels: Mapping[str, str] | None = None,
        is_shared: bool = False,
    ) -> str:
        """An unattached disk, zeros or a copy of `content`; `is_shared`: several machines may have it at once.

        Answers with its id in the form that the cloud's API uses.
        """

    @abstractmethod
    def attach_by_hand(self, disk: str, instance: str, *, read_only: bool = False, slot: str = "") -> None:
        """`slot`: deviceName, device or LUN; the cloud's console chooses where it is empty."""

    @abstractmethod
    def detach_by_hand(self, disk: str, instance: str) -> None: ...

    @abstractmethod
    def delete_disk(self, disk: str) -> None:
        """Also while it is attached, which no cloud allows."""

    @abstractmethod
    def recreate_disk(self, disk: str) -> str:
        """Deletes the disk and makes another one of its name, place and size, with zeros. Answers with its id.

        Raises ValueError where the cloud gives no name twice.
        """

    @abstractmethod
    def rename_disk(self, disk: str, name: str) -> None:
        """Raises ValueError where the cloud cannot."""

    @abstractmethod
    def delete_instance(self, instance: str) -> None: ...

    @abstractmethod
    def stop_instance(self, instance: str) -> None:
        """Switched off: its disks stay attached, and their devices go with its operating system."""

    @abstractmethod
    def start_instance(self, instance: str) -> None: ...

    @abstractmethod
    def rename_instance(self, instance: str, name: str) -> None:
        """Raises ValueError where the cloud cannot, or not now."""

    @abstractmethod
    def holders(self, disk: str) -> list[str]:
        """Names of the instances that the disk is attached to, or is being attached to or detached from."""
