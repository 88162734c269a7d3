"""Detects drift: a disk that was detached by hand, replaced, resized or deleted while it is served.

Each provider's disks are looked at every `reconcile_seconds`, the cheapest first: the kernel is asked about each device
(`fingerprint`), the provider about all of its disks at once (`locate_all`, one call to its cloud), and about one disk
alone (`locate`) only where that left it open. An export that became ready a moment ago is not looked at yet, so a start
costs nothing more. Looking changes nothing: the reconciler acts on what was found, disk by disk. Beside that it is
listened whether the servers answer; no cloud that hangs is waited for with that.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial
from typing import TypeAlias, TypeGuard

from cloudmanager.core.clock import Clock
from cloudmanager.core.errors import (
    CloudManagerError,
    DeviceMismatch,
    DeviceNotReady,
    DiskReplaced,
    ResourcesExhausted,
    ServerFailed,
)
from cloudmanager.core.fingerprint import DeviceChange, Fingerprint, has_open, serves_a_device
from cloudmanager.core.incarnation import refuse_device_of_other
from cloudmanager.core.model import Device, Disk, DiskId, NotAttached, Problem
from cloudmanager.core.nbd import Servers
from cloudmanager.core.plugins import Plugins, Provider
from cloudmanager.core.records import ExportRecord

Located: TypeAlias = Device | NotAttached | CloudManagerError
AT_ONCE = 64
LONGEST_PAUSE_SECONDS = 0.02
"""After so many looks of one round."""
log = logging.getLogger(__name__)


class Verdict(IntEnum):
    """What to do with a server, from the mildest to the most severe."""

    SOUND = 0
    NOTED = 1
    """The right bytes are served, as far as is known: it goes on, and the export shows what was seen."""
    MOVED = 2
    """The disk is elsewhere: the server is stopped at once, and started where the disk is."""
    DETACHED = 3
    """As MOVED, and before that the disk needs a new attachment."""
    WRONG = 4
    """What is served is not the disk any more, or not all of it: it is stopped at once, and the export fails."""

    @property
    def stops(self) -> bool:
        return self > Verdict.NOTED


@dataclass(frozen=True)
class Sighting:
    """What a look at one export has shown."""

    export_id: str
    verdict: Verdict = Verdict.SOUND
    problem: Problem | None = None
    """Unless it is sound."""

    @classmethod
    def of(cls, export_id: str, verdict: Verdict, error: CloudManagerError) -> "Sighting":
        problem = Problem.of(error)
        if verdict is Verdict.NOTED:
            problem = replace(problem, detail=f"{problem.detail} Meanwhile the export is served as before.")
        return cls(export_id, verdict, problem)


@dataclass(eq=False)
class _Served:
    """A server, from just before its start to the start of the next one."""

    export_id: str
    disk: Disk
    since: float
    size_bytes: int | None
    """What its clients see."""
    fingerprint: Fingerprint | None = None
    """None of a server that was adopted, until it was looked at."""
    is_proven: bool = False
    """The device that it has open was found to be of the disk's incarnation, and the kernel notices when it changes."""
    sound: Device | None = None
    """Where the disk was located when that was last found to be right. A provider gives the same again where it can."""


class Drift:
    """Looks at what is served on this node. Thread-safe."""

    def __init__(self, plugins: Plugins, servers: Servers, clock: Clock, every_seconds: float) -> None:
        self._plugins = plugins
        self._servers = servers
        self._clock = clock
        self._every_seconds = every_seconds
        self._poke: Callable[[str], None] = lambda _: None
        self._served: dict[str, _Served] = {}
        self._found: dict[str, dict[str, tuple[_Served, Sighting]]] = defaultdict(dict)
        self._unresponsive: dict[str, tuple[_Served, Sighting]] = {}
        """Those whose servers do not answer."""
        self._shown: dict[str, Problem | None] = {}
        """What an export shows, where that is known."""
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    # What is served

    def starting(self, record: ExportRecord, device: Device) -> int:
        """A server is about to open the device. Returns how many bytes of it are served.

        An export keeps the size that its clients know, also where the disk has grown since: a client that connects
        again takes it for the same disk. Raises DeviceMismatch where it has become smaller.
        """
        size = device.size_bytes if record.size_bytes is None else record.size_bytes
        if device.size_bytes < size:
            raise _shrunk(record.disk)
        fingerprint = Fingerprint.take(device)
        is_proven = fingerprint.notices_replacement  # of a device that was just located
        self._keep(_Served(record.id, record.disk, self._clock.boottime(), size, fingerprint, is_proven))
        self._shown[record.id] = None  # a start that succeeds leaves no problem
        return size

    def adopted(self, record: ExportRecord) -> None:
        """A server that an earlier daemon started goes on: what it has open is looked at soon."""
        self._keep(_Served(record.id, record.disk, self._clock.boottime(), record.size_bytes))

    def ended(self, export_id: str) -> None:
        with self._lock:
            self._served.pop(export_id, None)
            self._unresponsive.pop(export_id, None)
            self._shown.pop(export_id, None)

    def findings(self, canonical_id: str) -> list[Sighting]:
        """What was found of the disk's exports and is still so: each once."""
        with self._lock:
            found = self._found.pop(canonical_id, {})
            return [finding for served, finding in found.values() if self._served.get(served.export_id) is served]

    # Looking

    def threads(self, stopping: threading.Event, poke: Callable[[str], None]) -> list[threading.Thread]:
        """One for each provider, so that no provider waits for another's cloud, and one for the servers. Not started.

        `poke` is called with the canonical id of a disk about which something was found.
        """
        self._poke = poke
        looks: dict[str, Callable[[], float | None]]
        looks = {f"drift-{provider.name}": partial(self.look, provider) for provider in self._plugins}
        looks["drift-"] = self.listen
        return [
            threading.Thread(target=self._watch, args=(look, stopping), name=name, daemon=True)
            for name, look in looks.items()
        ]

    def listen(self) -> None:
        """One round over all servers: whether they answer."""
        for served in self._spread(self._due()):
            message = self._servers.check_responsive(served.export_id, has_device=self._is_device(served))
            if message is None and served.export_id not in self._unresponsive:
                continue
            before, now = self._last_response(served), _response(served, message)
            if now == before:
                continue
            with self._lock:
                if now.problem and self._served.get(served.export_id) is served:
                    self._unresponsive[served.export_id] = (served, now)
                else:
                    self._unresponsive.pop(served.export_id, None)
            message = now.problem.detail if now.problem else "Its server answers again."
            log.warning("export %s of %s: %s", served.export_id, served.disk.id, message)
            self._report(served, now)

    def look(self, provider: Provider) -> float:
        """One round over what is served of the provider's disks. Returns for how long it wants to be left alone."""
        sound = [served for served in self._spread(self._due(provider.name)) if self._looks_sound(served)]
        began = self._clock.boottime()
        located, pause = self._locate(provider, {served.disk.id: served.disk for served in sound})
        for served in sound:
            device = located[served.disk.id]
            if device is served.sound:  # a thousand may be as they were
                if not self._shows_nothing(served):
                    self._report(served, self._last_response(served))
                continue
            finding = self._judge(served, self._identified(provider, served, device))
            served.sound = device if finding.verdict is Verdict.SOUND and _tells_incarnation(device) else None
            self._report(served, finding if finding.problem else self._last_response(served))
            if finding.verdict is Verdict.DETACHED:
                self._report_others(served, finding, began)
        return pause

    def _watch(self, look: Callable[[], float | None], stopping: threading.Event) -> None:
        pause = self._every_seconds
        self._stopping = stopping
        while not stopping.wait(pause):
            began = self._clock.boottime()
            try:
                put_off = look() or 0.0
            except Exception:
                log.exception("looking at what is served failed")
                put_off = 0.0
            pause = max(put_off, began + self._every_seconds - self._clock.boottime())

    def _due(self, provider: str | None = None) -> list[_Served]:
        """The served exports of one provider or of all, without those that just became ready or are being started."""
        latest = self._clock.boottime() - self._every_seconds
        with self._lock:
            served = [each for each in self._served.values() if provider in (None, each.disk.id.provider)]
        living = self._servers.living()
        return [each for each in served if each.since <= latest and each.export_id in living]

    def _spread(self, served: Sequence[_Served]) -> Iterator[_Served]:
        """A few at once, with pauses: a request meanwhile would wait for all of them."""
        pause = min(LONGEST_PAUSE_SECONDS, self._every_seconds / 2 * AT_ONCE / max(AT_ONCE, len(served)))
        for number, each in enumerate(served, start=1):
            yield each
            if number % AT_ONCE == 0:
                self._stopping.wait(pause)

    def _looks_sound(self, served: _Served) -> bool:
        """Whether the device is unchanged according to the kernel; reports the drift otherwise."""
        pid = partial(self._servers.pid, served.export_id)
        try:
            change = served.fingerprint.change(pid) if served.fingerprint else DeviceChange.NONE
        except ResourcesExhausted as lacking:  # nothing is known of the device, which is no news of it
            log.warning("%s cannot be looked at: %s", served.disk.id, lacking.detail)
            return True
        if change is DeviceChange.GONE:
            error = DeviceNotReady(f"The device of {served.disk.id} was taken out of this machine, or replaced.")
            self._report(served, Sighting.of(served.export_id, Verdict.MOVED, error))
        elif change is DeviceChange.SHRUNK:
            self._report(served, Sighting.of(served.export_id, Verdict.WRONG, _shrunk(served.disk)))
        return change is DeviceChange.NONE

    def _last_response(self, served: _Served) -> Sighting:
        """When its server was last checked for an answer."""
        unresponsive, finding = self._unresponsive.get(served.export_id, (None, None))
        return finding if finding and unresponsive is served else Sighting(served.export_id)

    def _locate(self, provider: Provider, disks: Mapping[DiskId, Disk]) -> tuple[Mapping[DiskId, Located], float]:
        """Where they are, and for how many seconds the provider does not want to be asked again."""
        if not disks:
            return {}, 0.0
        try:
            known = provider.locate_all(list(disks.values()))
        except CloudManagerError as error:
            return dict.fromkeys(disks, error), error.retry_after or 0.0
        if missing := [disk for id, disk in disks.items() if not known.get(id)]:
            return {**known, **{disk.id: _located(provider, disk) for disk in missing}}, 0.0
        return known, 0.0

    def _identified(self, provider: Provider, served: _Served, located: Located) -> Located:
        """What was located, if that is the disk that was claimed and not one that has its name since."""
        if not isinstance(located, Device) or (served.is_proven and not located.incarnation):
            return located
        try:
            if not located.incarnation and served.disk.incarnation:
                located = provider.locate(served.disk)  # it looks closer than `locate_all`
            if isinstance(located, Device):
                refuse_device_of_other(provider, served.disk, located)
        except CloudManagerError as error:
            return error
        return located

    def _judge(self, served: _Served, located: Located) -> Sighting:
        match located:
            case DiskReplaced():
                return Sighting.of(served.export_id, Verdict.WRONG, located)
            case NotAttached():
                error = DeviceNotReady(f"{served.disk.id} was detached from this machine by somebody. {located.reason}")
                return Sighting.of(served.export_id, Verdict.DETACHED, error)
            case Device():
                return self._judge_device(served, located)
            case DeviceMismatch(retriable=False) if self._is_device(served):
                return Sighting.of(served.export_id, Verdict.WRONG, located)
        return Sighting.of(served.export_id, Verdict.NOTED, located)  # unknown is not absent, and an open file stays

    def _judge_device(self, served: _Served, device: Device) -> Sighting:
        if not self._has_open(served, device):
            error = DeviceNotReady(f"{served.disk.id} is at {device.path} now, and not where it was.")
            return Sighting.of(served.export_id, Verdict.MOVED, error)
        if served.fingerprint is None:
            served.fingerprint = Fingerprint.take(device)
        served.is_proven = served.fingerprint.notices_replacement
        return _judged_size(served, device.size_bytes)

    def _has_open(self, served: _Served, device: Device) -> bool:
        if served.fingerprint is not None:
            return served.fingerprint.device.identity == device.identity
        pid = self._servers.pid(served.export_id)
        return pid is None or has_open(pid, device)

    def _is_device(self, served: _Served) -> bool:
        if served.fingerprint is not None:
            return served.fingerprint.device.is_block
        pid = self._servers.pid(served.export_id)
        return pid is not None and serves_a_device(pid)

    # Reporting

    def shown(self, finding: Sighting) -> None:
        """The export shows it: it need not be reported again."""
        with self._lock:
            if finding.export_id in self._served:
                self._shown[finding.export_id] = finding.problem

    def _keep(self, served: _Served) -> None:
        with self._lock:
            self._served[served.export_id] = served

    def _report_others(self, served: _Served, finding: Sighting, began: float) -> None:
        """What is detached is so for all exports of the disk that were started before that was asked."""
        with self._lock:
            those = [each for each in self._served.values() if each.disk.canonical_id == served.disk.canonical_id]
        for each in those:
            if each is not served and each.since < began:
                self._report(each, replace(finding, export_id=each.export_id))

    def _shows_nothing(self, served: _Served) -> bool:
        """And there is nothing to show, because its server answers."""
        id = served.export_id
        return id in self._shown and self._shown[id] is None and id not in self._unresponsive

    def _report(self, served: _Served, finding: Sighting) -> None:
        with self._lock:
            is_known = served.export_id in self._shown and self._shown[served.export_id] == finding.problem
            if self._served.get(served.export_id) is not served or (is_known and not finding.verdict.stops):
                return
            self._found[served.disk.canonical_id][served.export_id] = (served, finding)
        self._poke(served.disk.canonical_id)


def _response(served: _Served, message: str | None) -> Sighting:
    """Of a server that does not answer, as the message says; None: it answers."""
    if message is None:
        return Sighting(served.export_id)
    return Sighting(served.export_id, Verdict.NOTED, Problem.of(ServerFailed(message, retriable=True)))


def _tells_incarnation(located: Located) -> TypeGuard[Device]:
    return isinstance(located, Device) and bool(located.incarnation)


def _located(provider: Provider, disk: Disk) -> Located:
    try:
        return provider.locate(disk)
    except CloudManagerError as error:
        return error


def _judged_size(served: _Served, size_bytes: int) -> Sighting:
    seen = served.size_bytes
    if seen is None or size_bytes == seen:
        return Sighting(served.export_id)
    if size_bytes < seen:
        return Sighting.of(served.export_id, Verdict.WRONG, _shrunk(served.disk))
    error = DeviceMismatch(
        f"{served.disk.id} has grown from {seen} to {size_bytes} bytes: ask for a new export to see them all."
    )
    return Sighting.of(served.export_id, Verdict.NOTED, error)


def _shrunk(disk: Disk) -> DeviceMismatch:
    return DeviceMismatch(f"{disk.id} has become smaller while it was exported: what was cut off cannot be served.")
