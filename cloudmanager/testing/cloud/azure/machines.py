"""Virtual machines as the API serves them."""

from collections.abc import Callable
from functools import partial

from cloudmanager.testing.cloud.azure import documents, errors, sizes
from cloudmanager.testing.cloud.azure.attachments import Attachments, AttachRequest, Change, resolve
from cloudmanager.testing.cloud.azure.context import RequestContext
from cloudmanager.testing.cloud.azure.operations import Completion, Form, Operations, Running, Scheduler
from cloudmanager.testing.cloud.azure.state import DataDisk, Inventory, Machine, within
from cloudmanager.testing.cloud.wire import Response

_ATTACH_SECONDS = 8.0
_DETACH_SECONDS = 8.0

Appear = Callable[[Machine, DataDisk], None]


class Machines:
    """`plug` and `unplug` make disks come and go in a machine's guest."""

    def __init__(
        self, inventory: Inventory, operations: Operations, scheduler: Scheduler, *, plug: Appear, unplug: Appear
    ) -> None:
        self.form = Form.STATUS
        self.attachments = Attachments(inventory)
        self._inventory = inventory
        self._operations = operations
        self._scheduler = scheduler
        self._plug = plug
        self._unplug = unplug

    def get(self, context: RequestContext) -> Response:
        machine = context.seen.machine(context.match.resource)
        is_expanded = context.request.query.get("$expand", "").casefold() == "instanceview"
        shown = documents.machine(machine, context.seen, is_expanded=is_expanded)
        return Response.of_json(200, shown, {"ETag": machine.etag})

    def list(self, context: RequestContext, *, size: int, url: str) -> Response:
        records = within(context.seen.machines.values(), context.subscription, context.match.names.get("group"))
        return context.page(
            records, lambda it: it.id.key, partial(documents.machine, inventory=context.seen), size=size, url=url
        )

    def attach_detach(self, context: RequestContext) -> Response:
        body = context.body("AttachDetachDataDisksRequest")
        machine = self._inventory.machine(context.match.resource)
        if context.request.headers.get("If-Match", machine.etag) not in (machine.etag, "*"):
            raise errors.etag_mismatch()
        attach = [AttachRequest.of(member) for member in body.get("dataDisksToAttach") or []]
        detach = [resolve(member["diskId"]) for member in body.get("dataDisksToDetach") or []]
        if not attach and not detach:
            raise errors.missing_member("dataDisksToAttach")
        for wanted in attach:
            context.need_link("disks/write", str(wanted.disk))
        change = self.attachments.begin(machine, attach, detach)
        return self._started(context, change)

    def sizes(self, context: RequestContext) -> Response:
        """All of a region's, or those that a machine can be changed to."""
        if "name" in context.match.names:
            context.seen.machine(context.match.resource)
        return Response.of_json(200, {"value": [sizes.shown(name) for name in sizes.SIZES]})

    def complete(self, change: Change) -> None:
        """The records and the guest, as they are when a change has been made."""
        self.attachments.complete(change)
        for entry in change.attached:
            self._plug(change.machine, entry)
        for entry in change.detached:
            self._unplug(change.machine, entry)

    def _started(self, context: RequestContext, change: Change) -> Response:
        machine = change.machine
        operation = self._operations.add(
            Running(
                context.subscription,
                machine.place.region,
                "operations",
                result=lambda: documents.storage_profile(machine, self._inventory),
                version=context.version,
                resource=machine.id.key,
            )
        )
        body = documents.storage_profile(machine, self._inventory)
        completion = Completion(
            complete=partial(self.complete, change),
            fail=partial(self.attachments.fail, change),
            forget=partial(self.attachments.forget, change),
            failure=change.failure,
        )
        etag = machine.etag
        self._scheduler.start(
            operation, _ATTACH_SECONDS if change.attached else _DETACH_SECONDS, context.fault, completion
        )
        headers = self._operations.headers(operation, self.form)
        if self.form is Form.STATUS:
            return Response.of_json(200, body, {**headers, "ETag": etag})
        return Response(202, headers=headers)
