"""Virtual machines as the API serves them."""

from collections.abc import Callable
from functools import partial

from cloudmanager.testing.cloud.azure import documents, sizes, words
from cloudmanager.testing.cloud.azure.asked import Asked
from cloudmanager.testing.cloud.azure.attachments import Attachments, AttachRequest, Change, resolve
from cloudmanager.testing.cloud.azure.inventory import DataDisk, Inventory, Machine, within
from cloudmanager.testing.cloud.azure.operations import Form, Operations, Running
from cloudmanager.testing.cloud.azure.work import Ending, Work
from cloudmanager.testing.cloud.wire import Response

ATTACH_SECONDS = 8.0
DETACH_SECONDS = 8.0

Appear = Callable[[Machine, DataDisk], None]


class Machines:
    """`plug` and `unplug` make disks come and go in a machine's guest."""

    def __init__(
        self, inventory: Inventory, operations: Operations, work: Work, *, plug: Appear, unplug: Appear
    ) -> None:
        self.form = Form.STATUS
        self.attachments = Attachments(inventory)
        self._inventory = inventory
        self._operations = operations
        self._work = work
        self._plug = plug
        self._unplug = unplug

    def get(self, asked: Asked) -> Response:
        machine = asked.seen.machine(asked.match.resource)
        is_expanded = asked.request.query.get("$expand", "").casefold() == "instanceview"
        shown = documents.machine(machine, asked.seen, is_expanded=is_expanded)
        return Response.of_json(200, shown, {"ETag": machine.etag})

    def list(self, asked: Asked, *, size: int, url: str) -> Response:
        records = within(asked.seen.machines.values(), asked.subscription, asked.match.names.get("group"))
        return asked.page(
            records, lambda it: it.id.key, partial(documents.machine, inventory=asked.seen), size=size, url=url
        )

    def attach_detach(self, asked: Asked) -> Response:
        body = asked.body("AttachDetachDataDisksRequest")
        machine = self._inventory.machine(asked.match.resource)
        if asked.request.headers.get("If-Match", machine.etag) not in (machine.etag, "*"):
            raise words.etag_mismatch()
        attach = [AttachRequest.of(member) for member in body.get("dataDisksToAttach") or []]
        detach = [resolve(member["diskId"]) for member in body.get("dataDisksToDetach") or []]
        if not attach and not detach:
            raise words.missing_member("dataDisksToAttach")
        for wanted in attach:
            asked.need_link("disks/write", str(wanted.disk))
        change = self.attachments.begin(machine, attach, detach)
        return self._started(asked, change)

    def sizes(self, asked: Asked) -> Response:
        """All of a region's, or those that a machine can be changed to."""
        if "name" in asked.match.names:
            asked.seen.machine(asked.match.resource)
        return Response.of_json(200, {"value": [sizes.shown(name) for name in sizes.SIZES]})

    def complete(self, change: Change) -> None:
        """The records and the guest, as they are when a change has been made."""
        self.attachments.complete(change)
        for entry in change.attached:
            self._plug(change.machine, entry)
        for entry in change.detached:
            self._unplug(change.machine, entry)

    def _started(self, asked: Asked, change: Change) -> Response:
        machine = change.machine
        operation = self._operations.add(
            Running(
                asked.subscription,
                machine.place.region,
                "operations",
                result=lambda: documents.storage_profile(machine, self._inventory),
                version=asked.version,
            )
        )
        body = documents.storage_profile(machine, self._inventory)
        ending = Ending(
            complete=partial(self.complete, change),
            fail=partial(self.attachments.fail, change),
            forget=partial(self.attachments.forget, change),
            failure=change.failure,
        )
        etag = machine.etag
        self._work.start(operation, ATTACH_SECONDS if change.attached else DETACH_SECONDS, asked.fault, ending)
        headers = self._operations.headers(operation, self.form)
        if self.form is Form.STATUS:
            return Response.of_json(200, body, {**headers, "ETag": etag})
        return Response(202, headers=headers)
