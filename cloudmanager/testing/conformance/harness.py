"""What the conformance suite needs from a provider's author: the world that the provider works in."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Self

from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.plugins import Plugins, Provider
from cloudmanager.testing.cloud.calls import CallLog


class Trouble(StrEnum):
    """What can be wrong with the world. Each lasts until `Harness.recover`."""

    ATTACH_HANGS = "the cloud accepts an attach and does not finish it"
    ATTACH_IS_SLOW = "an attach takes half a second, and is seen to be going on"
    ATTACH_LIES = "the cloud reports that an attach succeeded, and nothing happened"
    DETACH_HANGS = "the cloud accepts a detach and does not finish it"
    DETACH_IS_SLOW = "a detach takes half a second, and is seen to be going on"
    DETACH_LIES = "the cloud reports that a detach succeeded, and nothing happened"
    DESCRIBE_IS_STALE = "reads are answered with the state as it is now, whatever happens from now on"
    READS_FAIL = "reads are refused as denied"
    DEVICE_IS_LATE = "a device appears half a second after its attach"
    DEVICE_IS_MISSING = "a device does not appear"
    DEVICE_STAYS = "the device of a disk that is detached stays where it is"
    LINK_MISSING = "the next disk has no link in /dev/disk"
    LINK_STALE = "the next disk's link leads to a node that is gone"
    LINK_SWAPPED = "the next disk's link leads to another disk"
    LINK_TO_PARTITION = "the next disk's link leads to a partition"
    LINK_TO_CONTROLLER = "the next disk's link leads to its controller"
    IDENTITY_UNREADABLE = "the next disk does not say who it is"
    IDENTITY_WRONG = "the next disk says that it is another disk"
    METADATA_ABSENT = "nothing listens where the metadata server should be"
    METADATA_SLOW = "the metadata server does not answer"
    METADATA_REFUSING = "the metadata server answers 403"


@dataclass(frozen=True)
class ErrorCase:
    """An error of the cloud, and what the provider must make of it."""

    name: str
    hook: str
    """Which hook meets it: `describe`, `attach` or `detach`."""
    arrange: Callable[[Any, str], None]
    """Called with the harness and a disk's native id: makes the error happen."""
    error: type[CloudManagerError]
    retriable: bool
    cloud_code: str | None = None
    """The cloud's own code, which must be kept. None: not checked."""
    retry_after: float | None = None


class Harness(ABC):
    """One provider in a world of its own: a cloud, a machine `node` under test, and another machine `elsewhere`.

    A context manager. Disks are named by their native ids in the canonical spelling. What a provider's kind has no
    notion of is declared in `does_not_apply`, check → reason; the methods that only those checks use may be left out.
    """

    does_not_apply: ClassVar[Mapping[str, str]] = {}
    error_cases: ClassVar[Sequence[ErrorCase]] = ()
    malformed_ids: ClassVar[Sequence[str]]
    """Native ids that no disk can have. An empty id need not be named."""
    supports_read_only_attach: ClassVar[bool] = False
    """The cloud itself can attach read-only."""
    supports_sharing: ClassVar[bool] = False
    """A disk can be attached to several machines."""
    capabilities: ClassVar[frozenset[str]] = frozenset()
    """Which of `snapshot`, `restore` and `delete` the provider offers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *_: object) -> None: ...

    @property
    def secrets(self) -> Sequence[str]:
        """Texts that must never be logged or be part of an error: tokens, keys."""
        return ()

    # The provider

    @property
    @abstractmethod
    def plugin(self) -> object:
        """The plugin that offers the provider: the module or object that the entry point names."""

    @abstractmethod
    def table(self) -> dict[str, Any]:
        """The configuration table of a provider on the node under test, with its `type`.

        Waits are bounded to about a second, so that a check of a bound takes no longer.
        """

    def make_provider(self, name: str = "disks", **settings: object) -> Provider:
        """A new provider, as a service that just started has it, with nothing remembered."""
        plugins = Plugins([("under-test", self.plugin)])
        plugins.configure({name: {**self.table(), **settings}})
        return plugins[name]

    # Disks and machines

    @abstractmethod
    def make_disk(self, name: str = "", *, location: str = "", is_shared: bool = False) -> str:
        """A new unattached disk with random bytes at its start. Empty: a new name, the node's location."""

    @abstractmethod
    def content(self, disk: str) -> bytes:
        """The first 4096 bytes of the disk: how the suite checks that a device is the right one."""

    @abstractmethod
    def missing_disk(self) -> str:
        """A well-formed id that no disk has."""

    @abstractmethod
    def other_locations(self) -> Sequence[str]:
        """Locations besides the node's in which disks can be made and are found; empty where there are none."""

    @abstractmethod
    def spellings(self, disk: str) -> Sequence[str]:
        """Other native ids that mean the same disk: short names, links, letter case."""

    def attach_elsewhere(self, disk: str) -> str:
        """Attaches the disk to another machine by hand, and names that machine as an error should name it."""
        raise NotImplementedError

    def attach_by_hand(self, disk: str, *, slot: str = "") -> None:
        """Attaches the disk to the node under test, as an administrator would with the cloud's console.

        Under the device name or LUN `slot`, or, where it is empty, the one that the console proposes.
        """
        raise NotImplementedError

    def detach_by_hand(self, disk: str) -> None:
        """Detaches the disk from the node under test."""
        raise NotImplementedError

    def holders(self, disk: str) -> Sequence[str]:
        """The machines that have the disk, or are about to get or lose it."""
        raise NotImplementedError

    @property
    def node_name(self) -> str:
        """As in `holders`."""
        raise NotImplementedError

    def delete_disk(self, disk: str) -> None:
        raise NotImplementedError

    def replace_disk(self, disk: str) -> None:
        """Detaches and deletes the disk by hand, and makes another one with its name and size, and other bytes."""
        raise NotImplementedError

    def delete_node(self) -> None:
        """Deletes the node under test; the provider knows its name from the settings."""
        raise NotImplementedError

    def fill_slots(self) -> None:
        """Attaches disks by hand until the node takes no more."""
        raise NotImplementedError

    def free_slot(self) -> None:
        """Detaches one of those."""
        raise NotImplementedError

    def occupy(self, slot: str) -> None:
        """Makes a device name or LUN of the node taken in a way that the provider's plan cannot know of."""
        raise NotImplementedError

    def make_pages_small(self) -> None:
        """Has the cloud answer lists in pages of a few items."""
        raise NotImplementedError

    # Trouble

    @property
    def calls(self) -> CallLog:
        """What the cloud was asked."""
        raise NotImplementedError

    def detaches(self) -> int:
        """How often the cloud was asked to detach something."""
        raise NotImplementedError

    def inject(self, trouble: Trouble) -> None:
        raise NotImplementedError

    def recover(self) -> None:
        """Ends all trouble; what was held up is carried out now."""
        raise NotImplementedError
