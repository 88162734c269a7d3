"""A harness for a provider whose cloud is emulated: troubles become faults, deeds by hand go to the emulator."""

import os
import secrets
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Self

from cloudmanager.testing.cloud.calls import CallLog
from cloudmanager.testing.cloud.emulator import Emulator
from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.cloud.manual_actions import GIB
from cloudmanager.testing.conformance.harness import Harness, Trouble

NODE = "worker-1"
NEIGHBOUR = "worker-2"
SAMPLE_BYTES = 4096
_SLOW_SECONDS = 0.5
_BOUNDS = {
    "attach_timeout_seconds": 1.5,
    "detach_timeout_seconds": 1.5,
    "device_timeout_seconds": 1.0,
    "metadata_timeout_seconds": 2.0,
    "request_timeout_seconds": 5.0,
    "copy_timeout_seconds": 10.0,
    "poll_seconds": 0.05,
    "look_seconds": 0,
    "retry_attempts": 2,
}
"""Short enough for checks of bounds, long enough for a slow machine's attach of _SLOW_SECONDS."""

_GUEST_FAULTS = {
    Trouble.DEVICE_IS_LATE: Fault("guest.plug", Effect.LATE, seconds=_SLOW_SECONDS),
    Trouble.DEVICE_IS_MISSING: Fault("guest.plug", Effect.HANG),
    Trouble.DEVICE_STAYS: Fault("guest.unplug", Effect.HANG),
    Trouble.LINK_MISSING: Fault("guest.plug", Effect.NO_LINK),
    Trouble.LINK_STALE: Fault("guest.plug", Effect.STALE_LINK),
    Trouble.LINK_SWAPPED: Fault("guest.plug", Effect.SWAPPED_LINK),
    Trouble.LINK_TO_PARTITION: Fault("guest.plug", Effect.PARTITION_LINK),
    Trouble.LINK_TO_CONTROLLER: Fault("guest.plug", Effect.CONTROLLER_LINK),
    Trouble.IDENTITY_UNREADABLE: Fault("guest.plug", Effect.NO_IDENTITY),
    Trouble.IDENTITY_WRONG: Fault("guest.plug", Effect.WRONG_IDENTITY),
    Trouble.METADATA_ABSENT: Fault("metadata", Effect.CUT_BEFORE, times=0),
    Trouble.METADATA_SLOW: Fault("metadata", Effect.HANG, times=0, seconds=6.0),
    Trouble.METADATA_REFUSING: Fault("metadata", Effect.ERROR, times=0, status=403),
}
_OPERATION_EFFECTS = {
    Trouble.ATTACH_HANGS: Effect.HANG,
    Trouble.ATTACH_IS_SLOW: Effect.LATE,
    Trouble.ATTACH_LIES: Effect.LIE,
    Trouble.DETACH_HANGS: Effect.HANG,
    Trouble.DETACH_IS_SLOW: Effect.LATE,
    Trouble.DETACH_LIES: Effect.LIE,
}


class EmulatorHarness(Harness):
    """What is left to a subclass: the plugin, the operations' names, the ids, and the errors of the cloud."""

    emulation: ClassVar[type[Emulator[Any]]]
    attach_operation: ClassVar[str]
    """As the call log and the faults name it."""
    detach_operation: ClassVar[str]
    reads: ClassVar[Sequence[str]]
    """The operations with which the provider reads the state of disks and machines."""
    denial: ClassVar[Fault]
    """The fault with which the cloud denies a read; its operation is replaced."""
    free_slots: ClassVar[int]
    """How many disks the node under test can take."""
    locations: ClassVar[Sequence[str]] = ()
    """Others than the node's."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.cloud = self.emulation(directory / "cloud")  # type: ignore[call-arg] # each kind has its state built in
        self._numbers = count(1)
        self._filling: list[str] = []
        self._environment_before: dict[str, str | None] = {}

    def __enter__(self) -> Self:
        self.cloud.start()
        self.cloud.limits.lift()  # the checks start more processes in a second than a service does in a month
        self.start_machines()
        for name, value in self.variables().items():
            self._environment_before[name] = os.environ.get(name)
            os.environ[name] = value
        return self

    def __exit__(self, *_: object) -> None:
        for name, value in self._environment_before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        self.cloud.stop()

    # What a subclass may say differently

    def start_machines(self) -> None:
        """Makes the node under test and its neighbour; a node with `free_slots` slots."""
        self.cloud.make_instance(NODE)
        self.cloud.make_instance(NEIGHBOUR)

    def variables(self) -> Mapping[str, str]:
        """The environment in which the provider's SDK finds its credentials."""
        return self.cloud.environment(NODE)

    def native_id(self, disk: str) -> str:
        """The provider's canonical spelling of a disk that the emulator names `disk`."""
        return disk

    def emulated_id(self, native: str) -> str:
        """The reverse."""
        return native

    def table(self) -> dict[str, Any]:
        return {**self.cloud.provider_settings(NODE), **_BOUNDS}

    # The rest is the same for all

    @property
    def node_name(self) -> str:
        return NODE

    @property
    def calls(self) -> CallLog:
        return self.cloud.calls

    def other_locations(self) -> Sequence[str]:
        return self.locations

    def make_disk(self, name: str = "", *, location: str = "", is_shared: bool = False) -> str:
        name = name or f"evidence-{next(self._numbers)}"
        disk = self.cloud.make_disk(name, location=location, size_bytes=GIB, is_shared=is_shared)
        self._fill(disk)
        return self.native_id(disk)

    def replace_disk(self, disk: str) -> None:
        self._fill(self.cloud.recreate_disk(self.emulated_id(disk)))

    def _fill(self, disk: str) -> None:
        with self.cloud.backing(disk).open("r+b") as file:
            file.write(secrets.token_bytes(SAMPLE_BYTES))

    def content(self, disk: str) -> bytes:
        with self.cloud.backing(self.emulated_id(disk)).open("rb") as file:
            return file.read(SAMPLE_BYTES)

    def attach_elsewhere(self, disk: str) -> str:
        self.cloud.attach_by_hand(self.emulated_id(disk), NEIGHBOUR)
        return self.shown_holder(NEIGHBOUR)

    def shown_holder(self, instance: str) -> str:
        """How an error names an instance."""
        return instance

    def attach_by_hand(self, disk: str, *, slot: str = "") -> None:
        self.cloud.attach_by_hand(self.emulated_id(disk), NODE, slot=slot)

    def detach_by_hand(self, disk: str) -> None:
        self.cloud.detach_by_hand(self.emulated_id(disk), NODE)

    def holders(self, disk: str) -> Sequence[str]:
        return self.cloud.holders(self.emulated_id(disk))

    def delete_disk(self, disk: str) -> None:
        self.cloud.delete_disk(self.emulated_id(disk))

    def delete_node(self) -> None:
        self.cloud.delete_instance(NODE)

    def fill_slots(self) -> None:
        for _ in range(self.free_slots):
            self._filling.append(self.make_disk())
            self.attach_by_hand(self._filling[-1])

    def free_slot(self) -> None:
        self.detach_by_hand(self._filling.pop())

    def occupy(self, slot: str) -> None:
        self.cloud.attach_by_hand(self.emulated_id(self.make_disk()), NODE, slot=slot)

    def detaches(self) -> int:
        return sum(call.operation == self.detach_operation for call in self.calls)

    def make_pages_small(self) -> None:
        self.cloud.largest_page = 2

    def inject(self, trouble: Trouble) -> None:
        for fault in self.faults_of(trouble):
            self.cloud.faults.add(fault)

    def recover(self) -> None:
        self.cloud.faults.clear()
        self.cloud.timeline.release()

    def faults_of(self, trouble: Trouble) -> Sequence[Fault]:
        """What plays a trouble in this cloud."""
        if trouble in _GUEST_FAULTS:
            return [_GUEST_FAULTS[trouble]]
        if trouble in _OPERATION_EFFECTS:
            is_attach = trouble in (Trouble.ATTACH_HANGS, Trouble.ATTACH_IS_SLOW, Trouble.ATTACH_LIES)
            operation = self.attach_operation if is_attach else self.detach_operation
            return [Fault(operation, _OPERATION_EFFECTS[trouble], times=0, seconds=_SLOW_SECONDS)]
        if trouble is Trouble.DESCRIBE_IS_STALE:
            return [Fault(read, Effect.STALE, times=0) for read in self.reads]
        return [self.denied(read) for read in self.reads]

    def denied(self, operation: str, *, times: int = 0) -> Fault:
        """The cloud's denial of an operation."""
        denial = self.denial
        return Fault(operation, Effect.ERROR, times=times, code=denial.code, status=denial.status)
