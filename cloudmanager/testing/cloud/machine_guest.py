"""An emulated instance that is a virtual machine: its kernel, its sysfs and its udev are real."""

from pathlib import Path

from cloudmanager.testing.cloud.faults import Effect, Faults
from cloudmanager.testing.cloud.guest import Guest
from cloudmanager.testing.cloud.hardware import Hardware
from cloudmanager.testing.cloud.machine import Machine
from cloudmanager.testing.cloud.timeline import Timeline

_PLAYED = (None, Effect.HANG, Effect.LATE)


class MachineGuest(Guest):
    """Plugs disks into a machine, in the place of loop devices on this one. An emulator's `add_guest` makes it.

    The machine's kernel names the devices and its udev makes the links: `plugged`, `dev` and `sys` are empty. Of the
    faults, those that delay a device work here; those that falsify links or identities do not.
    """

    def __init__(self, machine: Machine, root: Path, faults: Faults, timeline: Timeline) -> None:
        super().__init__(root, faults, timeline)
        self._machine = machine
        self._present: set[str] = set()

    def close(self) -> None:
        with self._lock:
            self._expected.clear()
            for key in list(self._present):
                self._vanish(key)

    def _appear(
        self,
        key: str,
        backing: Path,
        hardware: Hardware,
        links: tuple[str, ...],  # noqa: ARG002 - udev makes them
        *,
        read_only: bool,
        effect: Effect | None,
    ) -> None:
        if effect not in _PLAYED:
            raise ValueError(f"a real guest cannot play {effect}")
        with self._lock:
            if key in self._expected and key not in self._present:
                self._machine.plug(key, backing, hardware, read_only=read_only)
                self._present.add(key)

    def _vanish(self, key: str) -> None:
        with self._lock:
            if key in self._present and key not in self._expected:
                self._machine.unplug(key)
                self._present.discard(key)
