"""One emulated instance's view of its disks: a /dev and a /sys of its own, with real block devices behind them."""

import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cloudmanager.testing.cloud import loop_device
from cloudmanager.testing.cloud.faults import Effect, Fault, Faults
from cloudmanager.testing.cloud.hardware import Hardware, Placement
from cloudmanager.testing.cloud.timeline import Timeline

_NULL_DEVICE = os.makedev(1, 3)
"""Stands for a controller's character device, which needs a number and is never opened."""
_MIRRORED = ("dev", "diskseq", "size", "ro", "holders", "stat", "inflight", "queue")
"""Attributes of the loop device that the guest shows as its own, so that `blockdev --setro` is seen."""
_SECTOR = 512
_MIB = 1024 * 1024


@dataclass(frozen=True)
class Plugged:
    """A disk that is in the guest."""

    name: str
    loop: Path
    """The loop device that gives it its bytes."""
    node: Path
    placement: Placement
    links: tuple[str, ...]
    backing: Path


class Guest:
    """Plugs sparse files in as block devices with the names, links and identities that a cloud's guest shows.

    Needs root: it makes loop devices and device nodes. Everything else is below `root`, in `dev` and `sys`.
    Takes the faults `guest.plug` and `guest.unplug`.
    """

    def __init__(self, root: Path, faults: Faults | None = None, timeline: Timeline | None = None) -> None:
        self.root = root
        self.dev = root / "dev"
        self.sys = root / "sys"
        self.surprises: list[str] = []
        """Keys of the disks that were in use on this machine when they were unplugged."""
        self._faults = faults or Faults()
        self._timeline = timeline or Timeline()
        self._plugged: dict[str, Plugged] = {}
        self._partitions: dict[Path, Path] = {}
        """Node of a disk → the loop device of its partition."""
        self._expected: set[str] = set()
        self._lock = threading.RLock()
        shutil.rmtree(root, ignore_errors=True)
        for directory in (self.dev / "disk/by-id", self.sys / "block", self.sys / "class/block"):
            directory.mkdir(parents=True, exist_ok=True)

    @property
    def plugged(self) -> Mapping[str, Plugged]:
        """By key: what can be seen in the guest now."""
        with self._lock:
            return dict(self._plugged)

    def plug(
        self, key: str, backing: Path, hardware: Hardware, links: Iterable[str] = (), *, read_only: bool = False
    ) -> None:
        """Makes `backing` appear as a disk. `links` are paths below dev, `disk/by-id/google-x`; `key` names it here."""
        fault = self._faults.take("guest.plug", key)
        with self._lock:
            self._expected.add(key)
        effect = fault.effect if fault else None
        self._run(fault, lambda: self._appear(key, backing, hardware, tuple(links), read_only=read_only, effect=effect))

    def unplug(self, key: str) -> None:
        """Makes the disk disappear; nothing happens where there is none."""
        fault = self._faults.take("guest.unplug", key)
        with self._lock:
            self._expected.discard(key)
        self._run(fault, lambda: self._vanish(key))

    def close(self) -> None:
        """Unplugs everything, whatever the faults say."""
        with self._lock:
            self._expected.clear()
            for key in list(self._plugged):
                self._vanish(key)

    def _run(self, fault: Fault | None, action: Callable[[], None]) -> None:
        if fault is not None and fault.effect is Effect.HANG:
            self._timeline.hold(action)
        elif fault is not None and fault.effect is Effect.LATE:
            self._timeline.after(fault.seconds, action)
        else:
            action()

    def _appear(
        self,
        key: str,
        backing: Path,
        hardware: Hardware,
        links: tuple[str, ...],
        *,
        read_only: bool,
        effect: Effect | None,
    ) -> None:
        with self._lock:
            if key not in self._expected or key in self._plugged:
                return
            placement = hardware.place({disk.name for disk in self._plugged.values()})
            loop = loop_device.attach(backing, read_only=read_only, sector_bytes=placement.sector_bytes)
            node = self.dev / placement.name
            os.mknod(node, 0o600 | stat.S_IFBLK, loop.stat().st_rdev)
            plugged = Plugged(placement.name, loop, node, placement, links, backing)
            self._plugged[key] = plugged
            self._write_sysfs(plugged, effect)
            self._link(plugged, effect)

    def _vanish(self, key: str) -> None:
        with self._lock:
            plugged = self._plugged.get(key)
            if plugged is None or key in self._expected:
                return
            del self._plugged[key]
            self._unlink(plugged)
            self._remove_sysfs(plugged)
            plugged.node.unlink(missing_ok=True)
            if not loop_device.detach(plugged.loop, plugged.backing):
                self.surprises.append(key)

    def _write_sysfs(self, plugged: Plugged, effect: Effect | None) -> None:
        placement = plugged.placement
        block = self.sys / placement.block
        block.mkdir(parents=True)
        for attribute in _MIRRORED:
            (block / attribute).symlink_to(Path("/sys/block") / plugged.loop.name / attribute)
        (block / "removable").write_text("0\n")
        for path, content in placement.files.items():
            if not (effect is Effect.NO_IDENTITY and path in placement.identity):
                self._write(path, content)
        if effect is Effect.WRONG_IDENTITY:
            self._impersonate(placement)
        (block / "device").symlink_to(os.path.relpath(self.sys / placement.parent, block))
        for path in (f"block/{plugged.name}", f"class/block/{plugged.name}"):
            self._symlink(path, placement.block)
        for path, target in placement.links.items():
            self._symlink(path, target)
        if placement.controller and not (self.dev / placement.controller).exists():
            os.mknod(self.dev / placement.controller, 0o600 | stat.S_IFCHR, _NULL_DEVICE)

    def _impersonate(self, placement: Placement) -> None:
        token = placement.token.encode()
        for path in placement.identity:
            self._write(path, placement.files[path].replace(token, b"x" * len(token)))

    def _write(self, path: str, content: bytes) -> None:
        file = self.sys / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def _symlink(self, path: str, target: str) -> None:
        link = self.sys / path
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(self.sys / target, link.parent))

    def _remove_sysfs(self, plugged: Plugged) -> None:
        placement = plugged.placement
        shutil.rmtree(self.sys / placement.block)
        for path in (f"block/{plugged.name}", f"class/block/{plugged.name}"):
            (self.sys / path).unlink()
        if any(other.placement.parent == placement.parent for other in self._plugged.values()):
            return
        shutil.rmtree(self.sys / placement.parent)
        for path in placement.links:
            (self.sys / path).unlink(missing_ok=True)
        if placement.controller:
            (self.dev / placement.controller).unlink(missing_ok=True)

    def _link(self, plugged: Plugged, effect: Effect | None) -> None:
        if effect is Effect.NO_LINK:
            return
        target = self._link_target(plugged, effect)
        for path in plugged.links:
            link = self.dev / path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(self.dev / target, link.parent))

    def _link_target(self, plugged: Plugged, effect: Effect | None) -> str:
        match effect:
            case Effect.STALE_LINK:
                return "sdzz"
            case Effect.SWAPPED_LINK:
                return next((other.name for other in self._plugged.values() if other is not plugged), "sdzz")
            case Effect.PARTITION_LINK:
                return self._make_partition(plugged)
            case Effect.CONTROLLER_LINK:
                return self._make_controller(plugged)
        return plugged.name

    def _make_partition(self, plugged: Plugged) -> str:
        """The second MiB of the disk, with a node and a sysfs entry: what a link may wrongly lead to."""
        name = f"{plugged.name}{'p' if plugged.name[-1].isdigit() else ''}1"
        loop = loop_device.attach(plugged.backing, part=range(_MIB, 2 * _MIB))
        self._partitions[plugged.node] = loop
        os.mknod(self.dev / name, 0o600 | stat.S_IFBLK, loop.stat().st_rdev)
        directory = f"{plugged.placement.block}/{name}"
        self._write(f"{directory}/partition", b"1\n")
        self._write(f"{directory}/start", f"{_MIB // _SECTOR}\n".encode())
        for attribute in ("dev", "size", "ro"):
            (self.sys / directory / attribute).symlink_to(Path("/sys/block") / loop.name / attribute)
        self._symlink(f"class/block/{name}", directory)
        return name

    def _make_controller(self, plugged: Plugged) -> str:
        name = plugged.placement.controller or "sg0"
        if not (self.dev / name).exists():
            os.mknod(self.dev / name, 0o600 | stat.S_IFCHR, _NULL_DEVICE)
        return name

    def _unlink(self, plugged: Plugged) -> None:
        for path in plugged.links:
            (self.dev / path).unlink(missing_ok=True)
        for partition in (self.sys / plugged.placement.block).glob(f"{plugged.name}*"):
            (self.dev / partition.name).unlink(missing_ok=True)
            (self.sys / "class/block" / partition.name).unlink(missing_ok=True)
        if (loop := self._partitions.pop(plugged.node, None)) is not None:
            loop_device.detach(loop, plugged.backing)
