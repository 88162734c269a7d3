"""The metadata servers of all machines: each listens on a port of its own, and takes the faults `metadata`."""

import threading
import time
from functools import partial

from cloudmanager.testing.cloud.azure.metadata import TOKEN_PATH, MetadataServer
from cloudmanager.testing.cloud.azure.words import ArmError
from cloudmanager.testing.cloud.calls import Call, CallLog
from cloudmanager.testing.cloud.faults import Effect, Fault, Faults
from cloudmanager.testing.cloud.wire import CUT, HttpServer, Request, Response


class MetadataServers:
    """By the names of machines. Faults on `metadata` are about the identity, those on `metadata.token` about tokens."""

    def __init__(self, faults: Faults, calls: CallLog, lock: threading.RLock) -> None:
        self._faults = faults
        self._calls = calls
        self._lock = lock
        self._servers: dict[str, HttpServer] = {}
        self._is_running = False

    def url(self, machine: str) -> str:
        return self._servers[machine].url

    def add(self, machine: str, behaviour: MetadataServer) -> None:
        server = HttpServer(partial(self._answer, machine, behaviour))
        self._servers[machine] = server
        if self._is_running:
            server.start()

    def remove(self, machine: str) -> None:
        self._servers.pop(machine).stop()

    def start(self) -> None:
        self._is_running = True
        for server in self._servers.values():
            server.start()

    def stop(self) -> None:
        for server in self._servers.values():
            server.stop()

    def _answer(self, machine: str, behaviour: MetadataServer, request: Request) -> Response:
        operation = "metadata.token" if request.path == TOKEN_PATH else "metadata"
        response = self._response(behaviour, request, self._faults.take(operation, machine))
        self._calls.add(Call(operation, machine, False, response.status))
        return response

    def _response(self, behaviour: MetadataServer, request: Request, fault: Fault | None) -> Response:
        match fault.effect if fault else None:
            case Effect.ERROR | Effect.THROTTLE if fault:
                status = fault.status or (429 if fault.effect is Effect.THROTTLE else 403)
                return Response.of_json(status, {"error": fault.code or "refused"})
            case Effect.HANG | Effect.DELAY if fault:
                time.sleep(fault.seconds)
            case Effect.CUT_BEFORE | Effect.CUT_AFTER:
                return CUT
        with self._lock:
            try:
                return behaviour.answer(request)
            except ArmError:
                return CUT  # a machine that is gone asks nothing
