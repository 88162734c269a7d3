"""What goes wrong in an emulated cloud, on demand: rules that take effect at the n-th call of an operation."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase


class Effect(StrEnum):
    """What a fault does. The first group acts on a request, the second on the work it starts, the third in a guest."""

    ERROR = "error"
    """Refused with `code`, `status` and `message`; nothing is done."""
    THROTTLE = "throttle"
    """Refused as the cloud throttles; `form` chooses where it has several ways, `retry_after` is announced."""
    CUT_BEFORE = "cut-before"
    """The connection breaks before anything is done."""
    CUT_AFTER = "cut-after"
    """It is done, and the connection breaks instead of an answer."""
    DELAY = "delay"
    """Answered `seconds` later."""
    STALE = "stale"
    """A read is answered with the state as it was when the rule was made."""

    HANG = "hang"
    """Accepted, and does not end before `Timeline.release()`."""
    LATE = "late"
    """Ends `seconds` later than it would. In a guest: the device appears, or goes, that much later."""
    FAIL = "fail"
    """Accepted, and ends with `code`."""
    LIE = "lie"
    """Reported as done; nothing was done."""

    NO_LINK = "no-link"
    STALE_LINK = "stale-link"
    """The link leads to a node that does not exist (any more)."""
    SWAPPED_LINK = "swapped-link"
    """The link leads to another disk of the guest."""
    PARTITION_LINK = "partition-link"
    CONTROLLER_LINK = "controller-link"
    NO_IDENTITY = "no-identity"
    """Serial and identify data cannot be read."""
    WRONG_IDENTITY = "wrong-identity"
    """The device has another disk's serial and identify data."""


@dataclass(frozen=True)
class Fault:
    """One rule: from the `nth` matching call on, for `times` calls (0: for ever), `effect` happens."""

    operation: str
    """Pattern (`*`, `?`) of the operation's name: `instances.attachDisk`, `AttachVolume`, `guest.plug`."""
    effect: Effect
    nth: int = 1
    times: int = 1
    target: str = "*"
    """Pattern of the resource that the operation is about."""
    code: str = ""
    """The cloud's own word for the error."""
    message: str = ""
    status: int = 0
    """HTTP status; 0: what the emulator uses for `code`."""
    form: str = ""
    seconds: float = 0.0
    retry_after: float | None = None
    frozen: object = field(default=None, compare=False, repr=False)
    """STALE: the state that reads are answered with."""

    def matches(self, operation: str, target: str) -> bool:
        return fnmatchcase(operation, self.operation) and fnmatchcase(target, self.target)


@dataclass
class _Armed:
    fault: Fault
    seen: int = 0

    def strikes(self) -> bool:
        self.seen += 1
        first, times = self.fault.nth, self.fault.times
        return self.seen >= first and (times == 0 or self.seen < first + times)


class Faults:
    """The rules in force. Thread-safe."""

    def __init__(self, freeze: Callable[[], object] = lambda: None) -> None:
        """`freeze` gives a copy of the emulator's state, for stale reads."""
        self._freeze = freeze
        self._armed: list[_Armed] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> Fault:
        if fault.effect is Effect.STALE:
            fault = replace(fault, frozen=self._freeze())
        with self._lock:
            self._armed.append(_Armed(fault))
        return fault

    def clear(self) -> None:
        with self._lock:
            self._armed.clear()

    def take(self, operation: str, target: str = "") -> Fault | None:
        """The fault that strikes this call, if any. Every matching rule counts the call; the oldest one wins."""
        with self._lock:
            struck = [
                armed.fault for armed in self._armed if armed.fault.matches(operation, target) and armed.strikes()
            ]
        return struck[0] if struck else None

    def __iter__(self) -> Iterator[Fault]:
        with self._lock:
            return iter([armed.fault for armed in self._armed])
