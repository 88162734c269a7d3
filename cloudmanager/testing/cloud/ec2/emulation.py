"""EC2 as a program: the query protocol, STS, a metadata service per instance, and what is done by hand."""

import contextlib
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qsl

from botocore.model import OperationModel

from cloudmanager.testing.cloud.ec2 import errors, schema
from cloudmanager.testing.cloud.ec2.accounts import HOME_ACCOUNT, access_key, known_zone, region_of, signer
from cloudmanager.testing.cloud.ec2.actions import Actions
from cloudmanager.testing.cloud.ec2.context import RequestContext
from cloudmanager.testing.cloud.ec2.instance_types import INSTANCE_TYPES
from cloudmanager.testing.cloud.ec2.lifecycle import Lifecycle, new_id
from cloudmanager.testing.cloud.ec2.metadata import MetadataService
from cloudmanager.testing.cloud.ec2.policies import Policy, allows
from cloudmanager.testing.cloud.ec2.state import (
    GIB,
    AttachmentState,
    Instance,
    InstanceState,
    Scope,
    State,
    Volume,
    VolumeState,
    now,
)
from cloudmanager.testing.cloud.ec2.views import ROOT_DEVICE
from cloudmanager.testing.cloud.emulator import Emulator, Operation, Refusal
from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.cloud.guest import Guest
from cloudmanager.testing.cloud.limits import Limit
from cloudmanager.testing.cloud.wire import CUT, HttpServer, Request, Response

_ROOT_GIB = 8
_CONSOLE_DEVICES = tuple(f"/dev/sd{letter}" for letter in "fghijklmnop")
"""What the console proposes."""


class Emulation(Emulator[State]):
    """Regions and zones: see `accounts.ZONES`. What is made by hand belongs to HOME_ACCOUNT where none is said."""

    kind: ClassVar[str] = "ec2"

    def __init__(self, directory: Path, *, pace: float = 0.0, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(directory, State(), pace=pace, host=host, port=port)
        self.denied: set[str] = set()
        """Actions that no policy allows."""
        self.policies: list[Policy] | None = None
        """The caller's policies; None: everything is allowed."""
        self._lifecycle = Lifecycle(directory, self.state, self.guests, self.timeline, self.lock)
        self._actions = Actions(self.state, self._lifecycle)
        self._metadata = MetadataService()
        self.metadata_servers: dict[str, HttpServer] = {}
        """By instance name."""

    @property
    def emulated_actions(self) -> frozenset[str]:
        return frozenset(self._actions.by_name)

    def stop(self) -> None:
        for server in self.metadata_servers.values():
            server.stop()
        super().stop()

    # What the cloud answers

    def identify(self, request: Request) -> Operation:
        form = _form(request)
        try:
            _, service = signer(request)
            model = schema.operation(service, form.get("Action"))
        except errors.Ec2Error as error:
            raise Refusal(_refusal(error)) from error
        target = next((form[name] for name in _TARGETS if name in form), "")
        return Operation(model.name, target, not model.name.startswith(("Describe", "Get")) and not _is_dry(form))

    def perform(self, operation: Operation, request: Request, fault: Fault | None) -> Response:
        try:
            scope, service = signer(request)
            model = schema.operation(service, operation.name)
            members = self._members(scope, service, model, _form(request), fault)
            body = schema.answer(model, _request_id(), members)
        except errors.Ec2Error as error:
            raise Refusal(_refusal(error)) from error
        return Response(200, body, _XML)

    def _members(
        self, scope: Scope, service: str, model: OperationModel, form: Mapping[str, str], fault: Fault | None
    ) -> schema.Members:
        parameters = schema.Parameters(schema.parse_request(model, form))
        if service == "sts":
            return _caller(scope, model.name)
        needed = {model.name, *(["CreateTags"] if parameters.has("TagSpecifications") else [])}
        for denied in needed & self.denied:
            raise errors.unauthorized(denied, scope.account)
        if self.policies is not None and not allows(self.policies, model.name, scope, parameters, self.state):
            raise errors.unauthorized(model.name, scope.account)
        if parameters.flag("DryRun"):
            raise errors.dry_run()
        action = self._actions.by_name.get(model.name)
        if action is None:
            raise errors.not_emulated(model.name)
        return action(RequestContext(scope, parameters, self.seen(fault), fault, self.largest_page))

    def limits_of(self, operation: Operation, request: Request) -> Sequence[Limit]:
        """A bucket for each action, in each account and region.

        https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html (read 2026-11-29): 100 tokens and 20 a
        second for actions that change nothing, 50 and 5 for others.
        """
        scope, _ = signer(request)
        burst, refill = (50, 5 * 60) if operation.mutates else (100, 20 * 60)
        return [Limit(operation.name, f"{scope.account}/{scope.region}", burst, refill)]

    def refuse(self, operation: Operation, fault: Fault) -> Response:  # noqa: ARG002 - every action fails alike
        """THROTTLE has the forms `` (RequestLimitExceeded, 503), `EC2ThrottledException` (503), `Throttling` (400)."""
        headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
        if fault.effect is Effect.THROTTLE:
            error = errors.throttled(fault.form)
        else:
            error = errors.of_code(fault.code, fault.message, fault.status)
        return _refusal(error, headers)

    def _answer_metadata(self, name: str, request: Request) -> Response:
        fault = self.faults.take("metadata", name)
        match fault.effect if fault else None:
            case Effect.ERROR | Effect.THROTTLE if fault:
                return Response.of_text(fault.status or 403, "Forbidden")
            case Effect.CUT_BEFORE | Effect.CUT_AFTER:
                return CUT
            case Effect.DELAY | Effect.HANG | Effect.LATE if fault:
                time.sleep(fault.seconds)
        with self.lock:
            return self._metadata.answer(self.instance(name), request.path.lstrip("/"), request)

    # What is done by hand

    def instance(self, name: str) -> Instance:
        """By its name or its id. Raises LookupError."""
        for instance in self.state.instances.values():
            if name in (instance.id, instance.name):
                return instance
        raise LookupError(f"there is no instance {name!r}")

    def volume(self, disk: str) -> Volume:
        """Raises LookupError."""
        if disk not in self.state.volumes:
            raise LookupError(f"there is no volume {disk!r}")
        return self.state.volumes[disk]

    def make_instance(
        self,
        name: str,
        *,
        location: str = "",
        type_name: str = "m5.large",
        account: str = HOME_ACCOUNT,
        ami_devices: Iterable[str] = (),
        network_interfaces: int = 1,
    ) -> Guest:
        """Running, with its root volume. `location` is a zone; `ami_devices` are names that its image maps unseen."""
        zone = known_zone(location)
        with self.lock:
            instance = Instance(
                id=new_id("i"),
                scope=Scope(account, region_of(zone)),
                zone=zone,
                type=INSTANCE_TYPES[type_name],
                launched=now(),
                tags={"Name": name},
                ami_devices=frozenset(ami_devices),
                network_interfaces=network_interfaces,
                private_ip=f"10.0.0.{10 + len(self.state.instances)}",
            )
            guest = self.add_guest(name)
            self.state.instances[instance.id] = instance
            root = self.volume(self.make_disk("", location=zone, size_bytes=_ROOT_GIB * GIB, account=account))
            self._join(root, instance, ROOT_DEVICE)
            root.attachments[0].delete_on_termination = True
        self.metadata_servers[name] = HttpServer(lambda request: self._answer_metadata(name, request)).start()
        return guest

    def make_disk(
        self,
        name: str,
        *,
        location: str = "",
        size_bytes: int = GIB,
        content: Path | None = None,
        labels: Mapping[str, str] | None = None,
        is_shared: bool = False,
        type_name: str = "",
        account: str = HOME_ACCOUNT,
    ) -> str:
        """`location` is a zone, `name` becomes the tag Name; sizes are rounded up to GiB, as volumes are."""
        zone = known_zone(location)
        size = max(size_bytes, content.stat().st_size if content else 0)
        with self.lock:
            volume = self._lifecycle.make_volume(
                Scope(account, region_of(zone)),
                zone,
                -(-size // GIB),
                type_name or ("io2" if is_shared else "gp3"),
                tags={**({"Name": name} if name else {}), **(labels or {})},
                source=content,
                is_multi_attach=is_shared,
            )
            volume.state = VolumeState.AVAILABLE
        return volume.id

    def attach_by_hand(self, disk: str, instance: str, *, read_only: bool = False, slot: str = "") -> None:
        """Attached, with the device in the guest, when this returns. There is no read-only attach."""
        if read_only:
            raise ValueError("EBS volumes cannot be attached read-only")
        with self.lock:
            machine = self.instance(instance)
            taken = {item.device for item in self.state.attachments(machine.id)} | machine.ami_devices
            device = slot or next(name for name in (*_CONSOLE_DEVICES, *_MORE_DEVICES) if name not in taken)
            try:
                self._lifecycle.check_attach(self.volume(disk), machine, device)
            except errors.Ec2Error as error:
                raise ValueError(str(error)) from error
            self._join(self.volume(disk), machine, device)

    def _join(self, volume: Volume, instance: Instance, device: str) -> None:
        self._lifecycle.finish_attach(self._lifecycle.join(volume, instance, device))

    def detach_by_hand(self, disk: str, instance: str) -> None:
        """Detached, whoever uses the device: a forced detach."""
        with self.lock:
            attachment = self.volume(disk).on(self.instance(instance).id)
            if attachment is not None:
                self._lifecycle.part(attachment)

    def delete_disk(self, disk: str) -> None:
        with self.lock:
            for attachment in list(self.volume(disk).attachments):
                self._lifecycle.part(attachment)
            self._lifecycle.forget(self.volume(disk))

    def recreate_disk(self, disk: str) -> str:
        raise ValueError(f"EC2 never gives the id of a volume again: delete {disk}, and make another one")

    def rename_disk(self, disk: str, name: str) -> None:
        """Its tag Name: the id stays."""
        with self.lock:
            self.volume(disk).tags["Name"] = name

    def rename_instance(self, instance: str, name: str) -> None:
        """Its tag Name: the id stays."""
        with self.lock:
            machine = self.instance(instance)
            self.rename_guest(machine.name, name)
            self.metadata_servers[name] = self.metadata_servers.pop(machine.name)
            machine.tags["Name"] = name

    def terminate_instance(self, instance: str) -> None:
        """Its volumes are free again, or go with it. It can still be described, as in EC2 for about an hour."""
        with self.lock:
            machine = self.instance(instance)
            machine.state = InstanceState.TERMINATED
            for attachment in self.state.attachments(machine.id):
                self._lifecycle.part(attachment)
                if attachment.delete_on_termination:
                    self._lifecycle.forget(self.volume(attachment.volume_id))

    def delete_instance(self, instance: str) -> None:
        """Terminated, and forgotten by EC2."""
        with self.lock:
            machine = self.instance(instance)
            self.terminate_instance(machine.id)
            del self.state.instances[machine.id]
            with contextlib.suppress(KeyError):
                self.metadata_servers.pop(machine.name).stop()

    def stop_instance(self, instance: str) -> None:
        with self.lock:
            machine = self.instance(instance)
            machine.state = InstanceState.STOPPED
            for attachment in self.state.attachments(machine.id):
                self._lifecycle.unplug(attachment)

    def start_instance(self, instance: str) -> None:
        with self.lock:
            machine = self.instance(instance)
            machine.state = InstanceState.RUNNING
            for attachment in self.state.attachments(machine.id):
                if attachment.state is not AttachmentState.ATTACHING:
                    self._lifecycle.plug(attachment)

    def holders(self, disk: str) -> list[str]:
        with self.lock:
            attachments = self.volume(disk).attachments
            return [self.state.instances[item.instance_id].name for item in attachments]

    def backing(self, disk: str) -> Path:
        return self.volume(disk).backing

    def provider_settings(self, instance: str) -> dict[str, object]:
        guest = self.guests[instance]
        return {
            "type": "aws",
            "endpoint_url": self.url,
            "metadata_url": self.metadata_servers[instance].url,
            "dev_root": str(guest.dev),
            "sys_root": str(guest.sys),
            "lock_dir": str(guest.root / "locks"),
        }

    def environment(self, instance: str) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": access_key(self.instance(instance).scope.account),
            "AWS_SECRET_ACCESS_KEY": "emulated-secret-access-key",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.metadata_servers[instance].url,
            "AWS_ENDPOINT_URL_EC2": self.url,
            "AWS_ENDPOINT_URL_STS": self.url,
        }


_XML = {"Content-Type": "text/xml;charset=UTF-8"}
_TARGETS = ("VolumeId", "VolumeId.1", "SnapshotId", "SnapshotId.1", "InstanceId.1", "ResourceId.1")
_MORE_DEVICES = tuple(f"/dev/xvd{one}{other}" for one in "dcba" for other in "xwvutsrqponmlkjihgfedcba")


def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True)) or request.query


def _is_dry(form: Mapping[str, str]) -> bool:
    return form.get("DryRun") == "true"


def _caller(scope: Scope, action: str) -> schema.Members:
    if action != "GetCallerIdentity":
        raise errors.not_emulated(action)
    return {
        "UserId": "AIDAEMULATED",
        "Account": scope.account,
        "Arn": f"arn:aws:iam::{scope.account}:user/emulated",
    }


def _refusal(error: errors.Ec2Error, headers: Mapping[str, str] | None = None) -> Response:
    return Response(error.status, schema.error_answer(error, _request_id()), {**_XML, **(headers or {})})


def _request_id() -> str:
    text = secrets.token_hex(16)
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
