"""What the provider is made of once the SDK and this machine's identity are there."""

from collections.abc import Iterator

from cloudmanager.core.model import Finding, Node
from cloudmanager.providers.gce.api import Compute
from cloudmanager.providers.gce.attaching import Attaching
from cloudmanager.providers.gce.copies import Copies
from cloudmanager.providers.gce.detaching import Detaching
from cloudmanager.providers.gce.doctor import Doctor
from cloudmanager.providers.gce.listing import Listing
from cloudmanager.providers.gce.machine_view import MachineView
from cloudmanager.providers.gce.resource_id import ResourceId
from cloudmanager.providers.gce.settings import GceSettings


class Parts:
    """The composition root of one provider."""

    def __init__(self, name: str, settings: GceSettings, node: Node) -> None:
        self._me = me = ResourceId.from_link(node.native_id)
        self.compute = Compute(settings)
        self.instance = MachineView(self.compute, me)
        self.attaching = Attaching(self.compute, self.instance, node, settings)
        self.detaching = Detaching(self.compute, self.instance, me, settings)
        self.listing = Listing(self.compute, name, node, me.project, self.instance.is_boot)
        self._doctor = Doctor(f"provider {name}", settings, self.compute, self.instance, self.listing)
        self.copies = Copies(self.compute, name, me, settings)

    def diagnose(self) -> Iterator[Finding]:
        return self._doctor.diagnose(self._me)
