"""What `cloudmanager doctor` says about a provider of Compute Engine's disks."""

from collections.abc import Iterator

from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.model import Finding, Query, Severity
from cloudmanager.providers.gce.listing import Listing
from cloudmanager.providers.gce.machine_view import MachineView
from cloudmanager.providers.gce.resource_id import ResourceId


def diagnose(subject: str, me: ResourceId, instance: MachineView, listing: Listing) -> Iterator[Finding]:
    """Reads only: the right to attach shows when a disk is attached."""
    try:
        yield _instance(subject, me, instance)
        page = listing.find(Query(), None)
        more = " or more" if page.next_page else ""
        yield Finding(subject, Severity.OK, f"project {me.project} has {len(page.items)}{more} disks")
    except CloudManagerError as error:
        yield Finding(subject, Severity.PROBLEM, error.title.lower(), error.detail)


def _instance(subject: str, me: ResourceId, instance: MachineView) -> Finding:
    view = instance.look()
    if not view.exists:
        return Finding(subject, Severity.PROBLEM, f"there is no instance {me.path}", "Check zone and instance.")
    return Finding(subject, Severity.OK, f"instance {me.short} has {len(view.slots)} disks attached")
