"""What `cloudmanager doctor` says about a provider of Compute Engine's disks."""

from collections.abc import Iterator

from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.model import Finding, Query, Severity
from cloudmanager.providers._capacity import Capacity
from cloudmanager.providers.gce.api import Compute
from cloudmanager.providers.gce.listing import Listing
from cloudmanager.providers.gce.machine_view import MachineView, View
from cloudmanager.providers.gce.resource_id import ResourceId
from cloudmanager.providers.gce.settings import GceSettings


class Doctor:
    """Reads only: the right to attach shows when a disk is attached."""

    def __init__(
        self, subject: str, settings: GceSettings, compute: Compute, instance: MachineView, listing: Listing
    ) -> None:
        self._subject = subject
        self._settings = settings
        self._compute = compute
        self._instance = instance
        self._listing = listing

    def diagnose(self, me: ResourceId) -> Iterator[Finding]:
        try:
            view = self._instance.look()
            if not view.exists:
                yield self._finding(Severity.PROBLEM, f"there is no instance {me.path}", "Check zone and instance.")
            else:
                yield self._finding(Severity.OK, f"instance {me.short} has {len(view.slots)} disks attached")
                yield self._limit(me, view)
            page = self._listing.find(Query(), None)
            more = " or more" if page.next_page else ""
            yield self._finding(Severity.OK, f"project {me.project} has {len(page.items)}{more} disks")
        except CloudManagerError as error:
            yield self._finding(Severity.PROBLEM, error.title.lower(), error.detail)

    def _limit(self, me: ResourceId, view: View) -> Finding:
        used = len(view.slots)
        if self._settings.max_disks:
            return Capacity(used, self._settings.max_disks, "max_disks").finding(self._subject)
        try:
            limit = self._compute.max_disks(me, view.machine_type)
        except CloudManagerError as error:
            return Capacity(used, None, error.detail).finding(self._subject)
        return Capacity(used, limit, view.machine_type).finding(self._subject)

    def _finding(self, severity: Severity, seen: str, advice: str = "") -> Finding:
        return Finding(self._subject, severity, seen, advice)
