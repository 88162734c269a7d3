"""The control API of an emulator, under `/_control`: faults, the call log, the clock, and what is done by hand."""

from collections.abc import Mapping
from dataclasses import asdict

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.cloud.manual_actions import ManualActions
from cloudmanager.testing.cloud.wire import Request, Response

PREFIX = "/_control/"


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FaultDocument(_Document):
    """See `Fault`."""

    operation: str
    effect: Effect
    nth: int = Field(1, ge=1)
    times: int = Field(1, ge=0)
    target: str = "*"
    code: str = ""
    message: str = ""
    status: int = 0
    form: str = ""
    seconds: float = Field(0.0, ge=0)
    retry_after: float | None = None


class DiskDocument(_Document):
    name: str
    location: str = ""
    size_bytes: int = Field(1024**3, gt=0)
    labels: Mapping[str, str] = Field(default_factory=dict)
    is_shared: bool = False


class InstanceDocument(_Document):
    name: str
    location: str = ""


class AttachmentDocument(_Document):
    disk: str
    instance: str
    read_only: bool = False
    slot: str = ""


class NamedDisk(_Document):
    disk: str


class NewDiskName(NamedDisk):
    name: str


class NamedInstance(_Document):
    instance: str


class NewInstanceName(NamedInstance):
    name: str


class ClockDocument(_Document):
    advance_seconds: float = Field(0.0, ge=0)
    freeze: bool = False
    release: bool = False
    """Let what a HANG fault holds go on."""


class Control:
    """Answers requests below `/_control/`."""

    def __init__(self, cloud: ManualActions) -> None:
        self._cloud = cloud

    def answer(self, request: Request) -> Response:
        route = f"{request.method} {request.path.removeprefix(PREFIX).strip('/')}"
        handler = {
            "GET calls": self._calls,
            "DELETE calls": self._forget_calls,
            "GET faults": self._faults,
            "POST faults": self._add_fault,
            "DELETE faults": self._clear_faults,
            "DELETE limits": self._lift_limits,
            "POST clock": self._move_clock,
            "POST disks": self._make_disk,
            "DELETE disks": self._delete_disk,
            "POST disks/recreate": self._recreate_disk,
            "POST disks/rename": self._rename_disk,
            "POST instances": self._make_instance,
            "DELETE instances": self._delete_instance,
            "POST instances/stop": self._stop_instance,
            "POST instances/start": self._start_instance,
            "POST instances/rename": self._rename_instance,
            "POST attachments": self._attach,
            "DELETE attachments": self._detach,
        }.get(route)
        if handler is None:
            return Response.of_json(404, {"detail": f"the control API has no {route}"})
        try:
            return Response.of_json(200, handler(request))
        except (ValidationError, ValueError, LookupError) as error:
            return Response.of_json(400, {"detail": str(error)})

    def _calls(self, _: Request) -> object:
        return {"items": [asdict(call) for call in self._cloud.calls]}

    def _forget_calls(self, _: Request) -> object:
        self._cloud.calls.clear()
        return {}

    def _faults(self, _: Request) -> object:
        return {"items": [_shown(fault) for fault in self._cloud.faults]}

    def _add_fault(self, request: Request) -> object:
        return _shown(self._cloud.faults.add(Fault(**FaultDocument.model_validate_json(request.body).model_dump())))

    def _clear_faults(self, _: Request) -> object:
        self._cloud.faults.clear()
        return {}

    def _lift_limits(self, _: Request) -> object:
        self._cloud.limits.lift()
        return {}

    def _move_clock(self, request: Request) -> object:
        wanted = ClockDocument.model_validate_json(request.body)
        if wanted.freeze:
            self._cloud.timeline.freeze()
        if wanted.release:
            self._cloud.timeline.release()
        self._cloud.timeline.advance(wanted.advance_seconds)
        return {}

    def _make_disk(self, request: Request) -> object:
        wanted = DiskDocument.model_validate_json(request.body)
        return {"id": self._cloud.make_disk(**wanted.model_dump())}

    def _make_instance(self, request: Request) -> object:
        wanted = InstanceDocument.model_validate_json(request.body)
        guest = self._cloud.make_instance(wanted.name, location=wanted.location)
        return {"dev": str(guest.dev), "sys": str(guest.sys)}

    def _delete_disk(self, request: Request) -> object:
        self._cloud.delete_disk(self._free_disk(NamedDisk.model_validate_json(request.body)))
        return {}

    def _recreate_disk(self, request: Request) -> object:
        return {"id": self._cloud.recreate_disk(self._free_disk(NamedDisk.model_validate_json(request.body)))}

    def _free_disk(self, wanted: NamedDisk) -> str:
        """No cloud deletes a disk that is attached. Raises ValueError."""
        if holders := self._cloud.holders(wanted.disk):
            raise ValueError(f"{wanted.disk} is attached to {', '.join(holders)}: detach it first")
        return wanted.disk

    def _rename_disk(self, request: Request) -> object:
        wanted = NewDiskName.model_validate_json(request.body)
        self._cloud.rename_disk(wanted.disk, wanted.name)
        return {}

    def _delete_instance(self, request: Request) -> object:
        self._cloud.delete_instance(NamedInstance.model_validate_json(request.body).instance)
        return {}

    def _stop_instance(self, request: Request) -> object:
        self._cloud.stop_instance(NamedInstance.model_validate_json(request.body).instance)
        return {}

    def _start_instance(self, request: Request) -> object:
        self._cloud.start_instance(NamedInstance.model_validate_json(request.body).instance)
        return {}

    def _rename_instance(self, request: Request) -> object:
        wanted = NewInstanceName.model_validate_json(request.body)
        self._cloud.rename_instance(wanted.instance, wanted.name)
        return {}

    def _attach(self, request: Request) -> object:
        self._cloud.attach_by_hand(**AttachmentDocument.model_validate_json(request.body).model_dump())
        return {}

    def _detach(self, request: Request) -> object:
        wanted = AttachmentDocument.model_validate_json(request.body)
        self._cloud.detach_by_hand(wanted.disk, wanted.instance)
        return {}


def _shown(fault: Fault) -> dict[str, object]:
    return {name: value for name, value in vars(fault).items() if name != "frozen"}
