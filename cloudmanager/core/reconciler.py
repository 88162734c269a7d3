"""Makes disks, attachments and servers agree with the store: `converge` is the one function to understand.

It looks at what is, not at what happened, so the same code serves a first request, a server that died, a restart after
kill -9 and a disk that somebody detached. It runs once at a time for each disk, and for several disks at once.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby

from cloudmanager.core.attaching import AttachmentLost, Attachments
from cloudmanager.core.backoff import Backoff, waits_reported_to
from cloudmanager.core.clock import Clock
from cloudmanager.core.clock_readings import ClockReadings
from cloudmanager.core.drift import Drift, Sighting, Verdict
from cloudmanager.core.errors import (
    CloudError,
    CloudManagerError,
    ConfigurationError,
    DeviceError,
    DeviceMismatch,
    DiskReplaced,
    NodeDisplaced,
    ServerFailed,
    StoreUnavailable,
    WrongZone,
)
from cloudmanager.core.exhaustion import exhausted
from cloudmanager.core.incarnation import is_replaced, learned
from cloudmanager.core.model import Access, Device, Disk, ExportState, Problem
from cloudmanager.core.nbd import Servers, ServerSpec
from cloudmanager.core.records import ExportRecord, Start
from cloudmanager.core.settings import ExportSettings
from cloudmanager.core.store import Store
from cloudmanager.core.workqueue import WorkQueue

DISKS_AT_ONCE = 64
"""Most wait for a cloud, which may make what waits together in one step."""
STARTS_AT_ONCE = 16
DRAIN_LOOK_SECONDS = 0.25
HEARTBEAT_SECONDS = 30.0
STORE_LOOK_SECONDS = 1.0
log = logging.getLogger(__name__)


class Reconciler:
    """Converges this node's disks whenever they are poked, when something falls due, and every so often anyway."""

    def __init__(
        self,
        node: str,
        store: Store,
        attachments: Attachments,
        servers: Servers,
        settings: ExportSettings,
        clock: Clock,
        drift: Drift,
        clock_readings: ClockReadings,
        on_change: Callable[[str], None],
        on_ready: Callable[[ExportRecord], None],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_change` is called with the id of an export whose state has changed, `on_ready` with one that is ready.

        `check` is called before every action: it raises NodeDisplaced when another service has this node's name.
        """
        self._node = node
        self._store = store
        self._attachments = attachments
        self._servers = servers
        self._settings = settings
        self._clock = clock
        self._drift = drift
        self._clock_readings = clock_readings
        self._on_change = on_change
        self._on_ready = on_ready
        self._check = check
        self._queue = WorkQueue(clock.boottime)
        self._backoff = Backoff()
        self._starters = ThreadPoolExecutor(STARTS_AT_ONCE, "start")
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._watchers: list[threading.Thread] = []

    def start(self) -> None:
        """Takes over what an earlier daemon left behind, and begins to converge."""
        # At once: a start that was cut is waited for, and a crash may have cut many.
        list(self._starters.map(self._take_over, self._store.exports.claiming(self._node)))
        self._clock_readings.note()  # only now: what was noted in an earlier boot is needed until here
        names = [f"converge-{number}" for number in range(DISKS_AT_ONCE)]
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
        self._threads.append(threading.Thread(target=self._resync, name="resync", daemon=True))
        self._watchers = self._drift.threads(self._stopping, self.poke)
        for thread in [*self._threads, *self._watchers]:
            thread.start()

    def stop(self, timeout: float) -> frozenset[str]:
        """Finishes what is being converged, for `timeout` seconds at most. Servers go on serving.

        Returns the disks that are still being worked on: something hangs, and this end is as good as a crash for them.
        """
        self._stopping.set()
        self._queue.close()
        deadline = self._clock.boottime() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - self._clock.boottime()))
        if self._threads:  # else what an earlier boot has left is still needed
            self._clock_readings.note(is_last=True)
        self._starters.shutdown(wait=False, cancel_futures=True)
        return self._queue.working

    @property
    def is_running(self) -> bool:
        return bool(self._threads) and all(thread.is_alive() for thread in [*self._threads, *self._watchers])

    def poke(self, canonical_id: str) -> None:
        """Asks for the disk to be looked at now."""
        self._queue.put(canonical_id)

    def server_ended(self, export_id: str) -> None:
        """A server ended without being stopped. It is replaced at once, unless it keeps dying."""
        now = self._clock.boottime()
        again = self._backoff.strike(export_id, now, first_is_free=True)
        log.warning("the server of export %s ended; replacing it in %.1f s", export_id, again - now)
        self._queue.put(self._store.exports.get(export_id).disk.canonical_id, again)

    def converge(self, canonical_id: str) -> float | None:
        """One step towards what the store says of this disk. Returns when to look again, by the boot clock."""
        records = self._expire(self._store.exports.claiming(self._node, canonical_id))
        records = self._of_one_disk(self._apply_findings(canonical_id, records))
        due = [again for record in records if record.state is ExportState.CLOSING for again in self._close(record)]
        live = [record for record in records if record.state.is_live]
        if live:
            due += [min(record.expires_boottime for record in live), *self._serve(canonical_id, live)]
        elif not due:
            due += self._detach_unused(canonical_id)
        return min(due, default=None)

    # Exports

    def _expire(self, records: Sequence[ExportRecord]) -> list[ExportRecord]:
        now = self._clock.boottime()
        expired = [record for record in records if record.state.is_live and record.expires_boottime <= now]
        for record in expired:
            if self._store.exports.expire(record):
                self._on_change(record.id)
        gone = {record.id for record in expired}
        return [self._store.exports.get(record.id) if record.id in gone else record for record in records]

    def _apply_findings(self, canonical_id: str, records: Sequence[ExportRecord]) -> list[ExportRecord]:
        """Acts on what was noticed of the disk. Returns those of its exports that are not over by that."""
        findings = {finding.export_id: finding for finding in self._drift.findings(canonical_id)}
        found = [(record, findings[record.id]) for record in records if record.id in findings]
        over = {record.id for record, finding in found if self._stop_if_wrong(record, finding)}
        going_on = [record for record in records if record.id not in over]
        if any(finding.verdict is Verdict.DETACHED for _, finding in found):
            self._attach_anew(canonical_id, [record for record in going_on if record.state.is_live])
        return going_on

    def _stop_if_wrong(self, record: ExportRecord, finding: Sighting) -> bool:
        """Shows the finding on the export, and stops a server that must not go on."""
        if not finding.verdict.stops or finding.problem is None:
            self._store.exports.show(record.id, finding.problem)
            self._drift.shown(finding)
            return False
        log.warning("export %s of %s is stopped: %s", record.id, record.disk.id, finding.problem.detail)
        try:
            self._servers.halt(record.id)
        except CloudManagerError as error:
            log.warning("export %s cannot be stopped: %s", record.id, error.detail)
            return False  # it is found again at the next look
        if not record.state.is_live:
            return False
        if final := self._final(record, finding.verdict, finding.problem):
            return self._give_up(record, final)
        self._store.exports.set_error(record.id, finding.problem, self._unready_since(record))
        self._on_change(record.id)
        return False

    def _final(self, record: ExportRecord, verdict: Verdict, problem: Problem) -> Problem | None:
        """The error with which the export of a stopped server ends; None if it is served again."""
        if problem.code == DiskReplaced.code:
            self._attachments.disown(record.disk)
            return problem
        if replaced := self._replaced(record.disk):
            return Problem.of(replaced)
        if record.access is Access.SCRATCH:
            return Problem.of(_overlay_lost(problem))
        return problem if verdict is Verdict.WRONG else None

    def _of_one_disk(self, records: list[ExportRecord]) -> list[ExportRecord]:
        """Without the exports of a disk that is gone and whose name another one has since: those are over.

        One of them that drains has no clients any more: a client of the other disk does not wait for them.
        """
        if not any(is_replaced(records[0].disk, *_identity(record)) for record in records):
            return records
        replaced = {record.id: error for record in records if (error := self._replaced(record.disk))}
        for record in records:
            if error := replaced.get(record.id):
                log.warning("export %s of %s is stopped: %s", record.id, record.disk.id, error.detail)
                self._cut_off(record, Problem.of(error))
        return [record for record in records if record.id not in replaced or not record.state.is_live]

    def _cut_off(self, record: ExportRecord, problem: Problem) -> None:
        if record.state.is_live:
            self._give_up(record, problem)
            return
        try:
            self._servers.halt(record.id)
        except CloudManagerError as error:
            log.warning("export %s cannot be stopped: %s", record.id, error.detail)

    def _replaced(self, disk: Disk) -> DiskReplaced | None:
        """The error that ends the exports of a disk whose name another disk now has. None also if that is unknown."""
        try:
            self._attachments.refuse_replaced(disk)
        except DiskReplaced as error:
            self._attachments.disown(disk)
            return error
        except CloudManagerError as error:
            log.info("%s may have been replaced or not: %s", disk.id, error.detail)
        return None

    def _give_up(self, record: ExportRecord, problem: Problem) -> bool:
        if self._end(record, ExportState.FAILED, problem):  # not yet: and it must not be served again until then
            self._store.exports.start_closing(record.id, problem.detail)
        return True

    def _attach_anew(self, canonical_id: str, live: Sequence[ExportRecord]) -> None:
        try:
            self._attachments.replan(canonical_id, live)
        except CloudManagerError as error:
            log.warning("%s cannot be planned anew: %s", canonical_id, error.detail)  # attaching will say so too

    def _close(self, record: ExportRecord) -> list[float]:
        """Ends an export without clients or past its grace period. Returns when to look again, if it drains."""
        now = self._clock.boottime()
        if (not_before := self._backoff.until(_ending(record))) > now:
            return [not_before]
        self._servers.refuse_clients(record.id)
        drained = (record.closing_boottime or 0.0) + self._settings.drain_seconds
        if now < drained and not record.is_forced and self._servers.client_count(record.id):
            return [now + DRAIN_LOOK_SECONDS]
        return self._end(record, ExportState.CLOSED)

    def _end(self, record: ExportRecord, state: ExportState, problem: Problem | None = None) -> list[float]:
        """Stops the server, and with that ends the export. Returns when to try again, if the server does not end."""
        try:
            self._servers.stop(record.id)
        except CloudManagerError as error:
            log.warning("export %s cannot be ended: %s", record.id, error.detail)
            return [self._backoff.strike(_ending(record), self._clock.boottime())]
        self._drift.ended(record.id)
        self._backoff.forgive(record.id)
        self._backoff.forgive(_ending(record))
        if self._store.exports.set_over(record.id, state, problem):
            self._on_change(record.id)
        return []

    def _serve(self, canonical_id: str, live: Sequence[ExportRecord]) -> list[float]:
        """Brings up every export that is not being served. Returns when to try again what failed."""
        waiting = [r for r in live if r.state is not ExportState.READY or not self._servers.is_alive(r.id)]
        now = self._clock.boottime()
        later = {r.id: until for r in waiting if (until := self._not_before(r)) > now}
        due = list(later.values())
        for disk, exports in _by_disk([record for record in waiting if record.id not in later]):
            try:
                claimed = [record for record in live if not is_replaced(disk, *_identity(record))]
                with waits_reported_to(partial(self._show_wait, exports)):
                    self._attachments.ensure(claimed)
                    device = self._attachments.locate(disk, claimed)
            except CloudManagerError as error:
                if isinstance(error, DiskReplaced):
                    self._attachments.disown(disk)
                due += self._retry_or_fail(canonical_id, exports, error)
            else:
                due += self._start_servers(exports, device)
        return due

    def _show_wait(self, exports: Iterable[ExportRecord], error: CloudManagerError) -> None:
        problem = Problem.of(error)
        for record in exports:
            self._store.exports.set_error(record.id, problem, self._unready_since(record))

    def _not_before(self, record: ExportRecord) -> float:
        return max(self._backoff.until(record.id), self._backoff.until(record.disk.canonical_id))

    def _start_servers(self, exports: Sequence[ExportRecord], device: Device) -> list[float]:
        ports: dict[str, int] = {}
        due: list[float] = []
        if self._stopping.is_set():  # an attach may have hung until the servers were closed
            return due
        for record in exports:
            try:
                ports[record.id] = self._servers.reserve(record.id, record.port)
            except CloudManagerError as error:
                due += self._retry_or_fail(record.id, [record], error)
        starting = self._begin_starts([record for record in exports if record.id in ports], ports)
        failures = self._starters.map(lambda record: self._start_server(record, ports[record.id], device), starting)
        for record, failure in zip(starting, failures, strict=True):
            if failure:
                due += self._retry_or_fail(record.id, [record], failure)
        return due

    def _begin_starts(self, exports: Sequence[ExportRecord], ports: Mapping[str, int]) -> list[ExportRecord]:
        """The record precedes the process. Leaves out what was released in the meantime: the next round closes it."""
        starts = [Start(record.id, ports[record.id], self._unready_since(record)) for record in exports]
        live = self._store.exports.set_attaching(starts)
        return [record for record in exports if record.id in live]

    def _start_server(self, record: ExportRecord, port: int, device: Device) -> CloudManagerError | None:
        try:
            if self._stopping.is_set():
                return None
            size = self._drift.starting(record, device)
            spec = ServerSpec(record.id, record.name, port, record.access, device, record.size_bytes, record.claims)
            process = self._servers.start(spec)
            known = replace(learned(record.disk, device), logical_sector_bytes=device.logical_sector_bytes)
            disk = None if known == record.disk else known
            if ready := self._store.exports.set_ready(record.id, process, size, device.format, disk):
                self._on_ready(ready)
        except CloudManagerError as error:
            return error
        return None

    def _unready_since(self, record: ExportRecord) -> float:
        return self._clock.boottime() if record.state is ExportState.READY else record.unready_boottime

    def _retry_or_fail(self, key: str, exports: Iterable[ExportRecord], error: CloudManagerError) -> list[float]:
        """Keeps the error on each export. Returns when to try again those that may still succeed.

        `key` is what is backed off from: the disk, or one export. An error of the store says nothing of the exports.
        """
        if isinstance(error, StoreUnavailable):
            raise error
        now = self._clock.boottime()
        problem = Problem.of(error)
        retried = False
        for record in exports:
            log.warning("export %s of %s: %s (%s)", record.id, record.disk.id, error.detail, error.code)
            since = self._unready_since(record)
            if isinstance(error, AttachmentLost) and record.access is Access.SCRATCH and record.server is not None:
                self._end(record, ExportState.FAILED, Problem.of(_overlay_lost(problem)))
            elif _may_pass(error, record) and now < since + self._settings.attach_deadline_seconds:
                self._store.exports.set_error(record.id, replace(problem, retriable=True), since)
                retried = True
            else:
                self._end(record, ExportState.FAILED, problem)
                self.poke(record.disk.canonical_id)  # it may have been the last one
        return [self._backoff.strike(key, now, at_least=error.retry_after)] if retried else []

    def _take_over(self, record: ExportRecord) -> None:
        """Recognises the server that an earlier daemon started for the export."""
        if record.boot_id != self._clock.boot_id:
            self._after_reboot(record)
        process = self._servers.adopt(record.id, record.name, record.port, record.server, record.claims)
        if process is not None:
            self._drift.adopted(record)
        log.info("export %s of %s: %s", record.id, record.disk.id, "adopted" if process else "has no server")
        self.poke(record.disk.canonical_id)

    def _after_reboot(self, record: ExportRecord) -> None:
        """Moves the deadlines to this boot's clock. A scratch overlay was not made to survive a power loss."""
        if record.access is Access.SCRATCH and record.server is not None:
            lost = ServerFailed("The machine was restarted: what was written to the scratch export is lost. Ask again.")
            self._end(record, ExportState.FAILED, Problem.of(lost))
        left = self._clock_readings.lifetime_left(record, timedelta(seconds=self._settings.max_ttl_seconds))
        self._store.exports.rebase(record, left)  # last: from here on nothing shows that there was a reboot

    def _detach_unused(self, canonical_id: str) -> list[float]:
        """Returns when to look again at an unused disk, if it is still attached by then."""
        now = self._clock.boottime()
        if (not_before := self._backoff.until(canonical_id)) > now:
            return [not_before]
        try:
            lingers_until = self._attachments.detach_unused(canonical_id)
        except CloudManagerError as error:
            return [self._backoff.strike(canonical_id, now, at_least=error.retry_after)]
        self._backoff.forgive(canonical_id)
        return [] if lingers_until is None else [lingers_until]

    # Threads

    def _work(self) -> None:
        while (canonical_id := self._queue.take()) is not None:
            try:
                self._check()
                due = self.converge(canonical_id)
            except NodeDisplaced:  # permanently; readiness and the log report it
                due = None
            except StoreUnavailable as error:  # no fault of the disk
                log.warning("%s waits for the store: %s", canonical_id, error.detail)
                due = self._clock.boottime() + STORE_LOOK_SECONDS
            except Exception as error:
                if lacking := exhausted(error):
                    log.warning("%s is tried again: %s", canonical_id, lacking.detail)
                else:
                    log.exception("converging %s failed", canonical_id)
                due = self._backoff.strike(canonical_id, self._clock.boottime())
            if due is not None:
                self._queue.put(canonical_id, due)
            self._queue.done(canonical_id)

    def _resync(self) -> None:
        """Looks now and then for disks that want work, and forgets what is long over."""
        next_heartbeat = 0.0
        while not self._stopping.wait(self._settings.reconcile_seconds):
            try:
                self._check()
                self._look_at_all()
                self._clock_readings.note()
                now = self._clock.boottime()
                if now >= next_heartbeat or self._store.write_failure:  # readiness notices when it takes writes again
                    self._store.nodes.seen(self._node)
                    self._store.exports.prune(self._node, self._settings.keep_closed_seconds)
                    next_heartbeat = now + HEARTBEAT_SECONDS
            except CloudManagerError as error:
                log.warning("cannot look for work: %s", error.detail)

    def _look_at_all(self) -> None:
        """At every disk that wants work, one after the other: requests would have to wait for all at once."""
        now = self._clock.boottime()
        disks = sorted(self._store.disks_with_work(self._node, now, self._servers.living()))
        for number, canonical_id in enumerate(disks):
            self._queue.put(canonical_id, now + self._settings.reconcile_seconds * number / len(disks))


def _may_pass(error: CloudManagerError, record: ExportRecord) -> bool:
    """Whether it is worth another try.

    What was ready once has been set up rightly. So credentials that are refused, a role that was taken away, a machine
    that the cloud does not know, or a file that cannot be read for a while can be fixed by an operator, and do not end
    the export.
    """
    was_ready = record.server is not None
    is_mended_by_somebody = isinstance(error, CloudError | ConfigurationError | DeviceError) and not isinstance(
        error, WrongZone | DeviceMismatch
    )
    return error.retriable or (was_ready and is_mended_by_somebody)


def _overlay_lost(problem: Problem) -> ServerFailed:
    return ServerFailed(
        f"{problem.detail} What was written to the scratch export rested on bytes that may have changed since, so it "
        "is given up. Ask again."
    )


def _ending(record: ExportRecord) -> str:
    """The key of what is backed off from when the export's server does not end."""
    return f"{record.id} ends"


def _identity(record: ExportRecord) -> tuple[str, datetime | None]:
    return record.disk.incarnation, record.disk.created_at


def _by_disk(records: Sequence[ExportRecord]) -> list[tuple[Disk, list[ExportRecord]]]:
    """Exports of one device together: a disk and its partitions are claimed as one but located apart."""
    ordered = sorted(records, key=lambda record: (str(record.disk.id), record.disk.incarnation))
    groups = [
        list(group) for _, group in groupby(ordered, key=lambda record: (record.disk.id, record.disk.incarnation))
    ]
    return [(group[0].disk, group) for group in groups]
