"""An instance's metadata server: who it is, and access tokens. https://cloud.google.com/compute/docs/metadata"""

import json
import time

from cloudmanager.testing.cloud.faults import Effect, Faults
from cloudmanager.testing.cloud.gce.access import EMAIL, AccessTokens
from cloudmanager.testing.cloud.gce.state import UNIVERSE, Instance
from cloudmanager.testing.cloud.wire import CUT, Request, Response

_ROOT = "/computeMetadata/v1/"
_FLAVOR = {"Metadata-Flavor": "Google", "Server": "Metadata Server for VM"}
_SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]


class Metadata:
    """Answers an instance's questions. Takes faults of the operation `metadata`."""

    def __init__(self, instance: Instance, project_number: int, tokens: AccessTokens, faults: Faults) -> None:
        self._tokens = tokens
        self._faults = faults
        self._instance = instance
        self._project_number = project_number

    def answer(self, request: Request) -> Response:
        fault = self._faults.take("metadata", request.path)
        if fault is not None and fault.effect in (Effect.HANG, Effect.DELAY):
            time.sleep(fault.seconds)
        if fault is not None and fault.effect in (Effect.HANG, Effect.CUT_BEFORE):
            return CUT
        if fault is not None and fault.effect in (Effect.ERROR, Effect.THROTTLE):
            return Response(fault.status or 503, fault.message.encode(), _FLAVOR)
        return self._look_up(request)

    def _look_up(self, request: Request) -> Response:
        if request.path in ("/", _ROOT, _ROOT.rstrip("/")):
            return Response(200, b"computeMetadata/\n", _FLAVOR)
        if request.headers.get("Metadata-Flavor") != "Google" or "X-Forwarded-For" in request.headers:
            return Response(403, b"Missing required header: Metadata-Flavor", _FLAVOR)
        key = request.path.removeprefix(_ROOT).strip("/")
        if key.startswith("instance/service-accounts/"):
            return self._account(key.removeprefix("instance/service-accounts/"))
        values = _values(self._instance, self._project_number)
        if key not in values:
            return Response(404, b"", _FLAVOR)
        return Response(200, values[key].encode(), {**_FLAVOR, "Content-Type": "application/text"})

    def _account(self, key: str) -> Response:
        account, _, what = key.partition("/")
        if account not in ("default", EMAIL):
            return Response(404, b"", _FLAVOR)
        token = {"access_token": self._tokens.token, "expires_in": 3599, "token_type": "Bearer"}
        about = {"aliases": ["default"], "email": EMAIL, "scopes": _SCOPES}
        found = {"token": token, "": about, "email": EMAIL, "scopes": "\n".join(_SCOPES)}.get(what)
        if found is None:
            return Response(404, b"", _FLAVOR)
        if isinstance(found, str):
            return Response(200, found.encode(), _FLAVOR)
        return Response(200, json.dumps(found).encode(), {**_FLAVOR, "Content-Type": "application/json"})


def _values(instance: Instance, project_number: int) -> dict[str, str]:
    zone = f"projects/{project_number}/zones/{instance.zone}"
    return {
        "instance/name": instance.name,
        "instance/id": str(instance.id),
        "instance/zone": zone,
        "instance/machine-type": f"projects/{project_number}/machineTypes/{instance.machine_type}",
        "project/project-id": instance.project,
        "project/numeric-project-id": str(project_number),
        "universe/universe-domain": UNIVERSE,
        "instance/service-accounts": f"default/\n{EMAIL}/\n",
    }
