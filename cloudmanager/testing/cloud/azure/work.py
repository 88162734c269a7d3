"""Ends operations when they are due, in the way that a fault wants."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from cloudmanager.testing.cloud.azure import words
from cloudmanager.testing.cloud.azure.operations import Running
from cloudmanager.testing.cloud.azure.words import ArmError
from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.cloud.timeline import Timeline


@dataclass(frozen=True)
class Ending:
    """What an operation does to the records when it ends."""

    complete: Callable[[], None]
    fail: Callable[[], None]
    forget: Callable[[], None]
    """It says that it is done, and is not."""
    failure: ArmError | None = None
    """What it will fail with, as Azure finds out."""


@dataclass(frozen=True)
class Work:
    """The emulator's clock and lock."""

    timeline: Timeline
    lock: threading.RLock

    def start(self, operation: Running, seconds: float, fault: Fault | None, ending: Ending) -> None:
        """`seconds` is the time that it takes in the cloud."""

        def end() -> None:
            with self.lock:
                self._end(operation, fault, ending)

        effect = fault.effect if fault else None
        if effect is Effect.HANG:
            self.timeline.hold(end)
        elif effect is Effect.LATE and fault:
            self.timeline.after(seconds * self.timeline.pace + fault.seconds, end)
        else:
            self.timeline.normally(seconds, end)

    @staticmethod
    def _end(operation: Running, fault: Fault | None, ending: Ending) -> None:
        effect = fault.effect if fault else None
        if effect is Effect.FAIL and fault:
            ending.fail()
            operation.end(words.of_fault(fault.code or "InternalExecutionError", fault.message, fault.status))
        elif effect is Effect.LIE:
            ending.forget()
            operation.end()
        elif ending.failure is not None:
            ending.fail()
            operation.end(ending.failure)
        else:
            ending.complete()
            operation.end()
