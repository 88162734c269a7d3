"""When this node was last alive, by both of its clocks: from that follows how much lifetime a reboot left an export.

The boot clock starts again at a reboot, so only the wall clock can tell how long the machine was away, and the wall
clock jumps. With a reading of both at the same moment, what was left by then is known from the boot clock alone, and a
jump before that moment changes nothing. A jump while the machine is away can still end an export early; it cannot give
it a longer lifetime than it had left.
"""

import json
import logging
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cloudmanager.core.clock import Clock
from cloudmanager.core.records import ExportRecord
from cloudmanager.linux.files import write_whole

EVERY_SECONDS = 30.0
JUMP_SECONDS = 1.0
"""The wall clock is adjusted all the time; so much at once is a jump, and is noted at once."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """Both clocks at one moment."""

    boot_id: str
    boottime: float
    wall: float
    """Seconds since 1970."""

    @classmethod
    def now(cls, clock: Clock) -> "Reading":
        return cls(clock.boot_id, clock.boottime(), clock.now().timestamp())

    @property
    def offset(self) -> float:
        return self.wall - self.boottime


class ClockReadings:
    """Keeps the last reading in a file, without haste: what power loss takes of it is seconds."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._noted: Reading | None = None

    def note(self, *, is_last: bool = False) -> None:
        """Call it every few seconds; it writes now and then, and whenever the wall clock has jumped."""
        now = Reading.now(self._clock)
        if not is_last and self._noted is not None and not _is_worth_noting(now, self._noted):
            return
        try:
            write_whole(self._path, json.dumps(asdict(now)))
            self._noted = now
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error.strerror)

    def lifetime_left(self, record: ExportRecord, longest: timedelta) -> timedelta:
        """Of an export that was claimed in an earlier boot: negative when it has expired.

        `longest` bounds it where only the wall clock is known of that boot.
        """
        seen, now = self.read(), self._clock.now()
        if seen is None or seen.boot_id != record.boot_id:
            return min(record.expires_at - now, longest)
        was_left = timedelta(seconds=record.expires_boottime - seen.boottime)
        away = max(timedelta(), now - datetime.fromtimestamp(seen.wall, now.tzinfo))
        return was_left - away

    def read(self) -> Reading | None:
        try:
            return Reading(**json.loads(self._path.read_text()))
        except (OSError, ValueError, TypeError):
            return None


def _is_worth_noting(now: Reading, noted: Reading) -> bool:
    return (
        now.boot_id != noted.boot_id
        or now.boottime - noted.boottime >= EVERY_SECONDS
        or abs(now.offset - noted.offset) > JUMP_SECONDS
    )
