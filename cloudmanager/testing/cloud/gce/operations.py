"""Operations: work that is accepted now and ends later."""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.cloud.gce import documents, filters
from cloudmanager.testing.cloud.gce.context import RequestContext, page
from cloudmanager.testing.cloud.gce.errors import not_found
from cloudmanager.testing.cloud.gce.state import HOST, Cloud, Operation, OperationError, Status
from cloudmanager.testing.cloud.timeline import Timeline
from cloudmanager.testing.cloud.wire import Response

Work = Callable[[], OperationError | None]
_FORBIDDEN = frozenset({"QUOTA_EXCEEDED", "LIMIT_EXCEEDED", "PERMISSIONS_ERROR", "RATE_LIMIT_EXCEEDED"})


class Operations:
    """Starts, ends and shows operations. Its methods are called under the emulator's lock."""

    def __init__(self, cloud: Cloud, timeline: Timeline, lock: threading.RLock, wait_limit_seconds: float) -> None:
        """`wait_limit_seconds`: how long `wait` waits before it answers with an operation that still runs."""
        self._cloud = cloud
        self._timeline = timeline
        self._lock = lock
        self._changed = threading.Condition(lock)
        self._wait_limit_seconds = wait_limit_seconds
        self._is_closed = False

    def start(
        self, context: RequestContext, kind: str, target: tuple[str, int], work: Work, *, seconds: float, disk: str = ""
    ) -> Response:
        """Accepts an operation whose `work` is done, and may fail, after `seconds`; a fault may have it otherwise.

        `target` is path and id of the resource; `disk` the path of the disk that is busy meanwhile.
        """
        number = self._cloud.new_id()
        name = f"operation-{number}-emulated"
        operation = Operation(context.project, context.scope, name, number, kind, target[0], target[1], disk)
        operation.request_id = context.parameters.get("requestId", "")
        self._cloud.operations[operation.path] = operation
        accepted = Response.of_json(200, documents.operation(operation))
        self._schedule(context.fault, seconds, lambda: self._finish(operation, work, context.fault))
        return accepted

    def get(self, context: RequestContext) -> Response:
        return Response.of_json(200, documents.operation(self._find(context, context.seen)))

    def wait(self, context: RequestContext) -> Response:
        """Releases the lock while it waits."""
        operation = self._find(context, self._cloud)
        self._changed.wait_for(lambda: self._is_closed or operation.status is Status.DONE, self._wait_limit_seconds)
        return Response.of_json(200, documents.operation(operation))

    def list(self, context: RequestContext) -> Response:
        matches = filters.parse(context.parameters.get("filter", ""))
        prefix = f"projects/{context.project}/{context.scope}/"
        found = [op for path, op in context.seen.operations.items() if path.startswith(prefix)]
        if context.parameters.get("orderBy") == "creationTimestamp desc":
            found.sort(key=lambda op: op.started_at, reverse=True)
        shown: Sequence[documents.Document] = [doc for doc in map(documents.operation, found) if matches(doc)]
        items, token = page(shown, context)
        link = HOST + prefix + "operations"
        answer: documents.Document = {"kind": "compute#operationList", "selfLink": link, "items": list(items)}
        return Response.of_json(200, answer | ({"nextPageToken": token} if token else {}))

    def close(self) -> None:
        """Ends all waiting."""
        with self._lock:
            self._is_closed = True
            self._changed.notify_all()

    def _find(self, context: RequestContext, cloud: Cloud) -> Operation:
        path = context.path("operations", "operation")
        if path not in cloud.operations:
            raise not_found(path)
        return cloud.operations[path]

    def _schedule(self, fault: Fault | None, seconds: float, finish: Callable[[], None]) -> None:
        match fault.effect if fault else None:
            case Effect.HANG:
                self._timeline.hold(finish)
            case Effect.LATE if fault:
                self._timeline.after(fault.seconds, finish)
            case _:
                self._timeline.normally(seconds, finish)

    def _finish(self, operation: Operation, work: Work, fault: Fault | None) -> None:
        with self._lock:
            operation.error = _do(work, fault)
            operation.http_status = _http_status(operation.error, fault)
            operation.status = Status.DONE
            operation.ended_at = datetime.now(UTC)
            operation.disk = ""
            self._changed.notify_all()


def _do(work: Work, fault: Fault | None) -> OperationError | None:
    match fault.effect if fault else None:
        case Effect.FAIL if fault:
            return OperationError(fault.code, fault.message or f"{fault.code} (injected)")
        case Effect.LIE:
            return None
    return work()


def _http_status(error: OperationError | None, fault: Fault | None) -> int:
    if error is None:
        return 0
    return (fault.status if fault else 0) or (403 if error.code in _FORBIDDEN else 400)
