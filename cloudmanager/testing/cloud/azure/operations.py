"""Asynchronous operations: the answer that starts one, and what polling it answers.

Azure has two forms. `Azure-AsyncOperation` leads to a status document, which reports success and failure with HTTP 200;
`Location` answers 202 until it answers what the request itself would have.
"""

import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from urllib.parse import urlencode

from cloudmanager.testing.cloud.azure import errors
from cloudmanager.testing.cloud.azure.errors import ArmError
from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.cloud.timeline import Timeline
from cloudmanager.testing.cloud.wire import Response

Document = Mapping[str, object]


class Form(StrEnum):
    """How an attach or a detach is answered."""

    STATUS = "status"
    """200 with the storage profile and `Azure-AsyncOperation`, as recorded."""
    LOCATION = "location"
    """202 with `Location`, as the specification allows."""
    BOTH = "both"
    """202 with both headers, as disks are."""


@dataclass
class Running:
    """One operation."""

    subscription: str
    region: str
    collection: str
    """Part of its URL: `operations` of machines, `DiskOperations` of disks and snapshots."""
    result: Callable[[], Document | None]
    """What the request itself would have answered; None: nothing."""
    version: str
    """The api-version of the request, which the polling URLs repeat."""
    resource: str = ""
    """Key of the virtual machine that it changes, where it does."""
    shows_output: bool = False
    """The status document carries the result."""
    name: str = field(default_factory=lambda: str(uuid.uuid4()))
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: datetime | None = None
    error: ArmError | None = None

    @property
    def status(self) -> str:
        if self.ended is None:
            return "InProgress"
        return "Failed" if self.error else "Succeeded"

    @property
    def path(self) -> str:
        return (
            f"/subscriptions/{self.subscription}/providers/Microsoft.Compute/locations/{self.region}"
            f"/{self.collection}/{self.name}"
        )

    def end(self, error: ArmError | None = None) -> None:
        self.error = error
        self.ended = datetime.now(UTC)

    def document(self) -> dict[str, object]:
        """The status document."""
        document: dict[str, object] = {"startTime": self.started.isoformat(), "status": self.status, "name": self.name}
        if self.ended is not None:
            document["endTime"] = self.ended.isoformat()
        if self.error is not None:
            document["error"] = self.error.node()
        elif self.ended is not None and self.shows_output and (output := self.result()) is not None:
            document["properties"] = {"output": output}
        return document


class Operations:
    """The operations that were started, by name."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._known: dict[str, Running] = {}

    def add(self, operation: Running) -> Running:
        self._known[operation.name] = operation
        return operation

    def headers(self, operation: Running, form: Form) -> dict[str, str]:
        """Absolute URLs, as the SDK follows them."""
        status = f"{self._url}{operation.path}?{urlencode({'p': operation.name[:8], 'api-version': operation.version})}"
        location = {"Location": f"{status}&monitor=true"}
        if form is Form.LOCATION:
            return location
        return {"Azure-AsyncOperation": status, **(location if form is Form.BOTH else {})}

    def resource(self, name: str) -> str:
        """Key of the machine that an operation changes; empty where there is none."""
        operation = self._known.get(name)
        return operation.resource if operation else ""

    def poll(self, name: str, *, is_location: bool) -> Response:
        """Raises ArmError for an unknown operation, and where `Location` reports a failure."""
        operation = self._known.get(name)
        if operation is None:
            raise errors.no_operation(name)
        return self._poll_location(operation) if is_location else Response.of_json(200, operation.document())

    def _poll_location(self, operation: Running) -> Response:
        if operation.ended is None:
            return Response(202, headers=self.headers(operation, Form.LOCATION))
        if operation.error is not None:
            raise operation.error
        output = operation.result()
        return Response(204) if output is None else Response.of_json(200, output)


@dataclass(frozen=True)
class Completion:
    """What an operation does to the records when it ends."""

    complete: Callable[[], None]
    fail: Callable[[], None]
    forget: Callable[[], None]
    """It says that it is done, and is not."""
    failure: ArmError | None = None
    """What it will fail with, as Azure finds out."""


@dataclass(frozen=True)
class Scheduler:
    """The emulator's clock and lock."""

    timeline: Timeline
    lock: threading.RLock

    def start(self, operation: Running, seconds: float, fault: Fault | None, completion: Completion) -> None:
        """`seconds` is the time that it takes in the cloud."""

        def end() -> None:
            with self.lock:
                self._end(operation, fault, completion)

        effect = fault.effect if fault else None
        if effect is Effect.HANG:
            self.timeline.hold(end)
        elif effect is Effect.LATE and fault:
            self.timeline.after(seconds * self.timeline.pace + fault.seconds, end)
        else:
            self.timeline.normally(seconds, end)

    @staticmethod
    def _end(operation: Running, fault: Fault | None, completion: Completion) -> None:
        effect = fault.effect if fault else None
        if effect is Effect.FAIL and fault:
            completion.fail()
            operation.end(errors.of_fault(fault.code or "InternalExecutionError", fault.message, fault.status))
        elif effect is Effect.LIE:
            completion.forget()
            operation.end()
        elif completion.failure is not None:
            completion.fail()
            operation.end(completion.failure)
        else:
            completion.complete()
            operation.end()
