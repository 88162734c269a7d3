"""The metadata server of one machine: identity and tokens, over plain http, and only without a proxy."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from functools import partial

from cloudmanager.testing.cloud.azure import documents
from cloudmanager.testing.cloud.azure.accounts import LIFE_SECONDS, Accounts, Identity
from cloudmanager.testing.cloud.azure.errors import ArmError
from cloudmanager.testing.cloud.azure.state import Inventory, Machine
from cloudmanager.testing.cloud.calls import Call, CallLog
from cloudmanager.testing.cloud.faults import Effect, Fault, Faults
from cloudmanager.testing.cloud.wire import CUT, HttpServer, Request, Response

_INSTANCE_VERSIONS = ("2017-12-01", "2019-06-01", "2020-09-01", "2021-02-01", "2021-05-01", "2021-10-01", "2021-11-01")
_TOKEN_PATH = "/metadata/identity/oauth2/token"  # noqa: S105 - a path
_TOKEN_VERSIONS = ("2018-02-01", "2019-08-01")


@dataclass(frozen=True)
class MetadataServer:
    """Answers what the machine asks about itself."""

    machine: Callable[[], Machine]
    inventory: Callable[[], Inventory]
    identity: Identity
    accounts: Accounts

    def answer(self, request: Request) -> Response:
        refused = _refused(request.headers)
        if refused is not None:
            return refused
        if request.path == _TOKEN_PATH:
            return self._token(request)
        if request.path == "/metadata/versions":
            return Response.of_json(200, {"apiVersions": list(_INSTANCE_VERSIONS)})
        if request.path.rstrip("/") == "/metadata/instance":
            return self._instance(request, ("compute", "network"))
        if request.path.rstrip("/") == "/metadata/instance/compute":
            return self._instance(request, ("compute",))
        return Response.of_json(404, {"error": "Not found"})

    def _instance(self, request: Request, parts: tuple[str, ...]) -> Response:
        version = request.query.get("api-version")
        if version not in _INSTANCE_VERSIONS:
            newest = sorted(_INSTANCE_VERSIONS, reverse=True)[:3]
            error = "Bad request. api-version is invalid or was not specified in the request."
            return Response.of_json(400, {"error": error, "newest-versions": newest})
        compute = self._compute()
        if parts == ("compute",):
            return Response.of_json(200, compute)
        return Response.of_json(200, {"compute": compute, "network": {"interface": []}})

    def _compute(self) -> Mapping[str, object]:
        machine = self.machine()
        return {
            "azEnvironment": "AzurePublicCloud",
            "location": machine.place.region,
            "name": machine.id.name,
            "osType": "Linux",
            "resourceGroupName": machine.id.group,
            "resourceId": str(machine.id),
            "storageProfile": documents.storage_profile(machine, self.inventory()),
            "subscriptionId": machine.id.subscription,
            "tagsList": [{"name": name, "value": value} for name, value in machine.tags.items()],
            "vmId": machine.vm_id,
            "vmScaleSetName": "",
            "vmSize": machine.size,
            "zone": machine.place.zone,
        }

    def _token(self, request: Request) -> Response:
        query = request.query
        if query.get("api-version") not in _TOKEN_VERSIONS:
            return _token_error("invalid_request", "The api-version is invalid or was not specified in the request.")
        if not query.get("resource"):
            return _token_error("invalid_request", "The required parameter 'resource' was not specified.")
        if query.get("client_id", self.identity.client_id) != self.identity.client_id:
            return _token_error("invalid_request", "Identity not found")
        now = int(time.time())
        return Response.of_json(
            200,
            {
                "access_token": self.accounts.issue(self.identity),
                "client_id": self.identity.client_id,
                "expires_in": str(LIFE_SECONDS),
                "expires_on": str(now + LIFE_SECONDS),
                "ext_expires_in": str(LIFE_SECONDS),
                "not_before": str(now - 5),
                "resource": query["resource"],
                "token_type": "Bearer",
            },
        )


def _refused(headers: Message) -> Response | None:
    """Without the header, or through a proxy, a request could come from a web page or another machine."""
    if headers.get("Metadata", "").casefold() != "true":
        return _token_error("invalid_request", "Required metadata header not specified")
    if headers.get("X-Forwarded-For"):
        return _token_error("invalid_request", "The request has an X-Forwarded-For header and is not answered")
    return None


def _token_error(code: str, description: str) -> Response:
    return Response.of_json(400, {"error": code, "error_description": description})


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
        operation = "metadata.token" if request.path == _TOKEN_PATH else "metadata"
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
