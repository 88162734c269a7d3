"""An emulated Azure: Resource Manager over https, a metadata server for each machine, and real block devices."""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

from cloudmanager.testing.cloud.authority import Authority
from cloudmanager.testing.cloud.azure import accounts, blobs, devices, documents, errors, policies, routes
from cloudmanager.testing.cloud.azure.accounts import Accounts, Identity
from cloudmanager.testing.cloud.azure.attachments import AttachRequest, Change
from cloudmanager.testing.cloud.azure.context import RequestContext
from cloudmanager.testing.cloud.azure.disks import Disks, Starter
from cloudmanager.testing.cloud.azure.errors import ArmError
from cloudmanager.testing.cloud.azure.machines import Machines
from cloudmanager.testing.cloud.azure.metadata import MetadataServer, MetadataServers
from cloudmanager.testing.cloud.azure.operations import Form, Operations, Scheduler
from cloudmanager.testing.cloud.azure.resource_id import ResourceId
from cloudmanager.testing.cloud.azure.sizes import DEFAULT_SIZE
from cloudmanager.testing.cloud.azure.snapshots import Snapshots
from cloudmanager.testing.cloud.azure.state import GIB, Controller, DataDisk, Inventory, Machine, ManagedDisk, Place
from cloudmanager.testing.cloud.backing import make
from cloudmanager.testing.cloud.emulator import Emulator, Operation, Refusal
from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.cloud.guest import Guest
from cloudmanager.testing.cloud.limits import Exceeded, Limit
from cloudmanager.testing.cloud.wire import CUT, Request, Response

SUBSCRIPTION = "0b1f6471-1bf0-4dda-aec3-cb9272f09590"
OTHER_SUBSCRIPTION = "c4b5a3d2-7e61-4f0a-8b9c-2d3e4f5a6b7c"
GROUP = "Evidence-RG"
OTHER_GROUP = "Archive-RG"
_HOME = "westeurope-1"
_SYSTEM_DISK_BYTES = 64 * 1024 * 1024
ATTACH = "VirtualMachines_AttachDetachDataDisks"
_THROTTLE_SECONDS = 7
_PAGE_SIZE = 100

Handler = Callable[[RequestContext], Response]


class AzureEmulation(Emulator[Inventory]):
    """Names of machines and disks are those of `GROUP` in `SUBSCRIPTION`; write `group/name`, or a full id, for others.

    Operations have the names of the REST specification. A request to attach or detach is
    `VirtualMachines_AttachDetachDataDisks/attach` or `…/detach`, and is about the disk's name.
    """

    kind: ClassVar[str] = "azure"

    def __init__(self, directory: Path, *, pace: float = 0.0, host: str = "127.0.0.1", port: int = 0) -> None:
        self._authority = Authority(directory / "authority")
        super().__init__(directory, Inventory(), pace=pace, host=host, port=port, tls=self._authority.server_context())
        self.ca_file = self._authority.ca_file
        self.accounts = Accounts()
        self.identities: dict[str, Identity] = {}
        """By the name of the machine; `actions` of each is its role."""
        self.latest_api_version = ""
        """Newer ones are not known, as in a sovereign cloud; empty: all are."""
        self._metadata = MetadataServers(self.faults, self.calls, self.lock)
        for subscription in (SUBSCRIPTION, OTHER_SUBSCRIPTION):
            for group in (GROUP, OTHER_GROUP):
                self.state.add_group(subscription, group, Place.parse(_HOME).region)
        self._build(directory / "disks")

    def _build(self, files: Path) -> None:
        operations = Operations(self.url)
        scheduler = Scheduler(self.timeline, self.lock)
        starter = Starter(operations, scheduler)
        self._operations = operations
        self.machines = Machines(self.state, operations, scheduler, plug=self._plug, unplug=self._unplug)
        self.disks = Disks(self.state, starter, files)
        self.snapshots = Snapshots(self.state, starter, scheduler, files)
        self._handlers: dict[str, Handler] = {
            "VirtualMachines_Get": self.machines.get,
            "VirtualMachines_List": lambda context: self.machines.list(context, size=self._page_size, url=self.url),
            "VirtualMachines_ListAll": lambda context: self.machines.list(context, size=self._page_size, url=self.url),
            "VirtualMachines_AttachDetachDataDisks": self.machines.attach_detach,
            "VirtualMachines_ListAvailableSizes": self.machines.sizes,
            "VirtualMachineSizes_List": self.machines.sizes,
            "Disks_Get": self.disks.get,
            "Disks_List": lambda context: self.disks.list(context, size=self._page_size, url=self.url),
            "Disks_ListByResourceGroup": lambda context: self.disks.list(context, size=self._page_size, url=self.url),
            "Disks_CreateOrUpdate": self.disks.put,
            "Disks_Delete": self.disks.delete,
            "Disks_GrantAccess": lambda context: self.disks.grant_access(context, self.url),
            "Disks_RevokeAccess": self.disks.revoke_access,
            "Snapshots_Get": self.snapshots.get,
            "Snapshots_List": lambda context: self.snapshots.list(context, size=self._page_size, url=self.url),
            "Snapshots_ListByResourceGroup": lambda context: self.snapshots.list(
                context, size=self._page_size, url=self.url
            ),
            "Snapshots_CreateOrUpdate": self.snapshots.put,
            "Snapshots_Delete": self.snapshots.delete,
            "Operations_Get": self._poll,
            "DiskOperations_Get": self._poll,
            "ResourceGroups_List": self._list_groups,
            "ResourceGroups_Get": self._get_group,
        }

    @property
    def form(self) -> Form:
        """How attaches and detaches are answered."""
        return self.machines.form

    @form.setter
    def form(self, form: Form) -> None:
        self.machines.form = form

    def start(self) -> Self:
        super().start()
        self._metadata.start()
        return self

    def stop(self) -> None:
        self._metadata.stop()
        super().stop()

    @property
    def _page_size(self) -> int:
        return _PAGE_SIZE if self.largest_page is None else self.largest_page

    # What Resource Manager answers

    def identify(self, request: Request) -> Operation:
        if blobs.is_blob(request):
            return Operation("Blobs_Read", request.path)
        match = routes.find(request.method, request.path)
        if match is None:
            raise Refusal(_shown(errors.no_route(request.path)))
        if match.route.operation == ATTACH:
            return _named_by_its_disks(request)
        return Operation(match.route.operation, match.names.get("name", ""), match.route.mutates)

    def perform(self, operation: Operation, request: Request, fault: Fault | None) -> Response:
        try:
            if operation.name == "Blobs_Read":
                return self._read_blob(request)
            return self._handle(request, fault)
        except ArmError as error:
            raise Refusal(_shown(error)) from error

    def refuse(self, operation: Operation, fault: Fault) -> Response:  # noqa: ARG002 - all refuse alike
        """THROTTLE has the forms `compute` (the resource provider's, the default) and `subscription` (ARM's own)."""
        if fault.effect is Effect.THROTTLE:
            return _shown(_throttled(fault))
        return _shown(errors.of_fault(fault.code, fault.message, fault.status, fault.retry_after))

    def limits_of(self, operation: Operation, request: Request) -> Sequence[Limit]:
        match = routes.find(request.method, request.path)
        if match is None:
            return ()
        names = match.names
        machine = match.resource.key if match.route.kind == "virtualMachines" else ""
        if match.route.operation == "Operations_Get":
            machine = self._operations.resource(names["name"])
        return policies.limits_of(operation.name, names["subscription"], machine, mutates=match.route.mutates)

    def throttle(self, operation: Operation, exceeded: Exceeded) -> Response:  # noqa: ARG002 - all are refused alike
        seconds = max(1, math.ceil(exceeded.seconds))
        if exceeded.limit.policy.startswith("subscription"):
            return _shown(errors.throttled_subscription(seconds))
        return _shown(errors.throttled(seconds, exceeded.limit.policy))

    def show_remaining(self, response: Response, remaining: Sequence[tuple[Limit, int]]) -> Response:
        """Of the compute resource provider; ARM's own buckets have headers of their own."""
        shown = [f"Microsoft.Compute/{limit.policy};{left}" for limit, left in remaining if limit.policy[0].isupper()]
        if not shown or response is CUT:
            return response
        return replace(response, headers={**response.headers, "x-ms-ratelimit-remaining-resource": ",".join(shown)})

    def _handle(self, request: Request, fault: Fault | None) -> Response:
        match = routes.find(request.method, request.path)
        if match is None:
            raise errors.no_route(request.path)
        identity = self.accounts.authenticate(request.headers)
        version = routes.check_version(match, request.query, self.latest_api_version)
        routes.check_scope(match, self.state)
        if match.route.action:
            accounts.authorize(identity, f"Microsoft.Compute/{match.route.action}", match.scope)
        context = RequestContext(request, match, version, identity, self.seen(fault), fault)
        return self._handlers[match.route.operation](context)

    def _poll(self, context: RequestContext) -> Response:
        return self._operations.poll(context.match.names["name"], is_location="monitor" in context.request.query)

    def _list_groups(self, context: RequestContext) -> Response:
        groups = context.seen.groups_of(context.subscription)
        shown = partial(documents.group, subscription=context.subscription)
        return context.page(groups, lambda it: it.name.casefold(), shown, size=self._page_size, url=self.url)

    def _get_group(self, context: RequestContext) -> Response:
        group = context.seen.group(context.subscription, context.match.names["group"])
        return Response.of_json(200, documents.group(group, context.subscription))

    def _read_blob(self, request: Request) -> Response:
        disk = blobs.find(self.state, request)
        if disk is None:
            raise ArmError(403, "AuthenticationFailed", "Server failed to authenticate the request.")
        return blobs.answer(disk, request)

    # What is done by hand

    def make_instance(
        self,
        name: str,
        *,
        location: str = "",
        size: str = DEFAULT_SIZE,
        controller: Controller = Controller.SCSI,
    ) -> Guest:
        """With an OS disk, and a temporary one where the controller is SCSI: not where data disks are."""
        machine = Machine(self.resource(name, "virtualMachines"), Place.parse(location or _HOME), size, controller)
        with self.lock:
            self.state.add_group(machine.id.subscription, machine.id.group, machine.place.region)
            self.state.machines[machine.id.key] = machine
            guest = self.add_guest(machine.id.name)
            for lun in range(2 if controller is Controller.SCSI else 1):
                key = f"system-{lun}"
                file = make(self.directory / "disks" / f"{machine.vm_id}-{lun}.img", _SYSTEM_DISK_BYTES)
                guest.plug(key, file, devices.system_disk(controller, lun, machine.vm_id + key))
            self._add_metadata(machine)
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
        sku: str = "Premium_LRS",
        sector_bytes: int | None = None,
    ) -> str:
        """`sector_bytes`: 512 or 4096, of an Ultra disk or a Premium SSD v2."""
        sectors = {"logicalSectorSize": sector_bytes} if sector_bytes else {}
        record = ManagedDisk(
            self.resource(name, "disks"),
            Place.parse(location or _HOME),
            size_bytes,
            sku=sku,
            max_shares=3 if is_shared else 1,
            tags=dict(labels or {}),
            creation_data={"createOption": "Empty", **sectors},
        )
        with self.lock:
            self.state.add_group(record.id.subscription, record.id.group, record.place.region)
            self.disks.add(record)
            if content is not None:
                shutil.copyfile(content, record.file)
        return str(record.id)

    def make_os_disk(self, instance: str) -> str:
        """That of a machine, as a managed disk: without this it has one that is no resource."""
        machine = self._machine(instance)
        disk = self.make_disk(f"{machine.id.name}_OsDisk", location=str(machine.place), size_bytes=30 * GIB)
        with self.lock:
            record = self.state.disks[self.resource(disk, "disks").key]
            record.os_type, record.owners = "Linux", [machine.id]
            machine.os_disk = record.id
        return disk

    def attach_by_hand(self, disk: str, instance: str, *, read_only: bool = False, slot: str = "") -> None:
        """Azure cannot attach read-only: raises ValueError."""
        if read_only:
            raise ValueError("Azure attaches no disk read-only")
        wanted = AttachRequest(self.resource(disk, "disks"), int(slot) if slot else None, "None", "Detach")
        with self.lock:
            self._at_once(self.machines.attachments.begin(self._machine(instance), [wanted], []))

    def detach_by_hand(self, disk: str, instance: str) -> None:
        with self.lock:
            machine = self._machine(instance)
            self._at_once(self.machines.attachments.begin(machine, [], [self.resource(disk, "disks")]))

    def delete_disk(self, disk: str) -> None:
        """Also while it is attached, which the API refuses."""
        with self.lock:
            record = self.state.disk(self.resource(disk, "disks"))
            for machine in self.machines.attachments.holders(record.id):
                self.guests[machine.id.name].unplug(record.id.key)
                machine.data_disks = [entry for entry in machine.data_disks if entry.disk.key != record.id.key]
            self.disks.forget(record)

    def recreate_disk(self, disk: str) -> str:
        """With a `uniqueId` of its own."""
        with self.lock:
            old = self.state.disk(self.resource(disk, "disks"))
            self.delete_disk(disk)
            new = ManagedDisk(
                old.id, old.place, old.size_bytes, sku=old.sku, max_shares=old.max_shares, tags=dict(old.tags)
            )
            self.disks.add(new)
        return str(new.id)

    def rename_disk(self, disk: str, name: str) -> None:  # noqa: ARG002 - see the interface
        raise ValueError("Azure renames no resource: it is made anew under another name")

    def rename_instance(self, instance: str, name: str) -> None:  # noqa: ARG002 - see the interface
        raise ValueError("Azure renames no resource: it is made anew under another name")

    def stop_instance(self, instance: str) -> None:
        """Deallocated."""
        with self.lock:
            machine = self._machine(instance)
            for entry in machine.data_disks:
                self._unplug(machine, entry)
            machine.is_running = False

    def start_instance(self, instance: str) -> None:
        with self.lock:
            machine = self._machine(instance)
            machine.is_running = True
            for entry in machine.data_disks:
                self._plug(machine, entry)

    def delete_instance(self, instance: str) -> None:
        with self.lock:
            machine = self.state.machines.pop(self._machine(instance).id.key)
            for disk in self.state.disks.values():
                disk.owners = [owner for owner in disk.owners if owner.key != machine.id.key]
            self.guests.pop(machine.id.name).close()
        self._metadata.remove(machine.id.name)

    def holders(self, disk: str) -> list[str]:
        with self.lock:
            return [it.id.name for it in self.machines.attachments.holders(self.resource(disk, "disks"))]

    def lun(self, disk: str, instance: str) -> int | None:
        """Where a machine's model has the disk."""
        with self.lock:
            entry = self._machine(instance).entry(self.resource(disk, "disks"))
        return entry.lun if entry else None

    def backing(self, disk: str) -> Path:
        return self.state.disk(self.resource(disk, "disks")).file

    def provider_settings(self, instance: str) -> dict[str, object]:
        guest = self.guests[self._machine(instance).id.name]
        return {
            "type": "azure",
            "endpoint": self.url,
            "ca_file": str(self.ca_file),
            "metadata_url": self.metadata_url(instance),
            "dev_root": str(guest.dev),
            "sys_root": str(guest.sys),
            "lock_dir": str(self.directory / "locks"),
        }

    def environment(self, instance: str) -> dict[str, str]:
        """With which `ManagedIdentityCredential`, and so `DefaultAzureCredential`, gets a token."""
        return {"AZURE_POD_IDENTITY_AUTHORITY_HOST": self.metadata_url(instance)}

    def metadata_url(self, instance: str) -> str:
        return self._metadata.url(self._machine(instance).id.name)

    def resource(self, text: str, kind: str) -> ResourceId:
        """`name`, `group/name` or a full id."""
        parsed = ResourceId.parse(text)
        if parsed is not None:
            return parsed
        group, slash, name = text.rpartition("/")
        return ResourceId(SUBSCRIPTION, group if slash else GROUP, kind, name)

    def _machine(self, instance: str) -> Machine:
        return self.state.machine(self.resource(instance, "virtualMachines"))

    def _add_metadata(self, machine: Machine) -> None:
        identity = Identity()
        self.identities[machine.id.name] = identity
        behaviour = MetadataServer(lambda: self.state.machine(machine.id), lambda: self.state, identity, self.accounts)
        self._metadata.add(machine.id.name, behaviour)

    def _at_once(self, change: Change) -> None:
        if change.failure is not None:
            self.machines.attachments.fail(change)
            raise change.failure
        self.machines.complete(change)

    def _plug(self, machine: Machine, entry: DataDisk) -> None:
        disk = self.state.disks.get(entry.disk.key)
        if disk is not None and machine.is_running:
            hardware = devices.data_disk(machine.controller, entry.lun, disk.unique_id, disk.sector_bytes)
            self.guests[machine.id.name].plug(disk.id.key, disk.file, hardware, devices.data_links(entry.lun))

    def _unplug(self, machine: Machine, entry: DataDisk) -> None:
        if machine.is_running:
            self.guests[machine.id.name].unplug(entry.disk.key)


def _named_by_its_disks(request: Request) -> Operation:
    try:
        body = request.json()
        attach, detach = body.get("dataDisksToAttach") or [], body.get("dataDisksToDetach") or []
        names = [str(member["diskId"]).rpartition("/")[2] for member in [*attach, *detach]]
    except (ValueError, AttributeError, TypeError, KeyError):
        return Operation(ATTACH, "", mutates=True)  # refused when it is read
    change = "attach" if attach else "detach"
    return Operation(f"{ATTACH}/{change}", ",".join(names), mutates=True)


def _throttled(fault: Fault) -> ArmError:
    seconds = _THROTTLE_SECONDS if fault.retry_after is None else round(fault.retry_after)
    return errors.throttled_subscription(seconds) if fault.form == "subscription" else errors.throttled(seconds)


def _shown(error: ArmError) -> Response:
    return Response.of_json(error.status, {"error": error.node()}, error.headers)
