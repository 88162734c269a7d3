"""What the emulated clouds have in common: a server, guests, faults, a call log, and what is done by hand."""

import copy
import shutil
import ssl
import threading
import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, Self, TypeVar

from cloudmanager.testing.cloud import loop_device
from cloudmanager.testing.cloud.calls import Call, CallLog
from cloudmanager.testing.cloud.control import PREFIX, Control
from cloudmanager.testing.cloud.faults import Effect, Fault, Faults
from cloudmanager.testing.cloud.guest import Guest
from cloudmanager.testing.cloud.limits import Exceeded, Limit, Limits
from cloudmanager.testing.cloud.manual_actions import ManualActions
from cloudmanager.testing.cloud.timeline import Timeline
from cloudmanager.testing.cloud.wire import CUT, HttpServer, Request, Response

State = TypeVar("State")


@dataclass(frozen=True)
class Operation:
    """What a request asks for, in the cloud's own words."""

    name: str
    """`instances.attachDisk`, `AttachVolume`."""
    target: str = ""
    """The resource that it is about; faults match on it."""
    mutates: bool = False


class Refusal(Exception):
    """The cloud says no: carries the answer."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


class Emulator(ManualActions, Generic[State]):
    """One emulated cloud. A context manager: `with GceEmulator(directory) as cloud: …`.

    `state` is what the cloud knows (plain data: it is copied for stale reads); guests are kept apart. Everything is
    below `directory`. Handlers run under `lock`, one at a time.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        directory: Path,
        state: State,
        *,
        pace: float = 0.0,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`pace` 1.0 takes the cloud's time for everything, 0.0 none."""
        self.directory = directory
        self.state = state
        self.lock = threading.RLock()
        self.faults = Faults(self._freeze)
        self.calls = CallLog()
        self.timeline = Timeline(pace)
        self.limits = Limits()
        """As the cloud publishes them; `limits.lift()` ends them."""
        self.largest_page: int | None = None
        """Lists are answered in pages of at most so many items; None: as many as the cloud gives."""
        self.guests: dict[str, Guest] = {}
        """By instance name."""
        directory.mkdir(parents=True, exist_ok=True)
        loop_device.detach_all(directory)
        for left_over in ("disks", "guests"):
            shutil.rmtree(directory / left_over, ignore_errors=True)
        self._control = Control(self)
        self.server = HttpServer(self._answer, host=host, port=port, tls=tls)
        self.url = self.server.url

    def start(self) -> Self:
        self.timeline.start()
        self.server.start()
        return self

    def stop(self) -> None:
        """Frees every loop device; the sparse files stay."""
        self.server.stop()
        self.timeline.stop()
        with self.lock:
            for guest in self.guests.values():
                guest.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def add_guest(self, instance: str) -> Guest:
        """The guest of a new instance."""
        guest = Guest(self.directory / "guests" / instance, self.faults, self.timeline)
        self.guests[instance] = guest
        return guest

    def rename_guest(self, instance: str, name: str) -> None:
        """The operating system goes on, and keeps its directory: only the cloud calls it otherwise."""
        if name in self.guests:
            raise ValueError(f"there is an instance {name}")
        self.guests[name] = self.guests.pop(instance)

    def seen(self, fault: Fault | None) -> State:
        """The state that a read is answered with: the present one, or the one that a STALE fault froze."""
        if fault is not None and fault.effect is Effect.STALE:
            return fault.frozen  # type: ignore[return-value] # made by _freeze
        return self.state

    # What a cloud answers

    @abstractmethod
    def identify(self, request: Request) -> Operation:
        """Names what is asked for. Raises Refusal when the cloud has no such operation."""

    @abstractmethod
    def perform(self, operation: Operation, request: Request, fault: Fault | None) -> Response:
        """Carries the request out, under the lock. Raises Refusal.

        `fault` is one of HANG, LATE, FAIL, LIE or STALE: all others were dealt with.
        """

    @abstractmethod
    def refuse(self, operation: Operation, fault: Fault) -> Response:
        """The cloud's own form of an ERROR or THROTTLE fault."""

    # What its tests look up

    @abstractmethod
    def backing(self, disk: str) -> Path:
        """The sparse file that has the disk's bytes."""

    @abstractmethod
    def provider_settings(self, instance: str) -> dict[str, object]:
        """The table [providers.NAME] of a provider that runs on `instance` and talks to this emulator."""

    def environment(self, instance: str) -> dict[str, str]:  # noqa: ARG002 - most clouds need it
        """The variables with which the cloud's SDK finds credentials, and this emulator, on `instance`."""
        return {}

    def limits_of(self, operation: Operation, request: Request) -> Sequence[Limit]:  # noqa: ARG002 - see above
        """The buckets that a request takes a token from."""
        return ()

    def throttle(self, operation: Operation, exceeded: Exceeded) -> Response:  # noqa: ARG002 - most say no time
        """The cloud's answer to a request over the limit."""
        return self.refuse(operation, Fault(operation.name, Effect.THROTTLE))

    def show_remaining(self, response: Response, remaining: Sequence[tuple[Limit, int]]) -> Response:  # noqa: ARG002
        """An answer with what the cloud says in it of the limits."""
        return response

    def _freeze(self) -> State:
        with self.lock:
            return copy.deepcopy(self.state)

    def _answer(self, request: Request) -> Response:
        if request.path.startswith(PREFIX):
            return self._control.answer(request)
        try:
            operation = self.identify(request)
        except Refusal as refusal:
            return refusal.response
        taken = self.limits.take(self.limits_of(operation, request))
        if isinstance(taken, Exceeded):
            response = self.throttle(operation, taken)
        else:
            fault = self.faults.take(operation.name, operation.target)
            response = self.show_remaining(self._carry_out(operation, request, fault), taken)
        self.calls.add(Call(operation.name, operation.target, operation.mutates, response.status))
        return response

    def _carry_out(self, operation: Operation, request: Request, fault: Fault | None) -> Response:
        match fault.effect if fault else None:
            case Effect.CUT_BEFORE:
                return CUT
            case Effect.ERROR | Effect.THROTTLE if fault:
                return self.refuse(operation, fault)
            case Effect.DELAY if fault:
                time.sleep(fault.seconds)
            case Effect.CUT_AFTER:
                self._perform(operation, request, None)
                return CUT
        return self._perform(operation, request, fault)

    def _perform(self, operation: Operation, request: Request, fault: Fault | None) -> Response:
        with self.lock:
            try:
                return self.perform(operation, request, fault)
            except Refusal as refusal:
                return refusal.response
