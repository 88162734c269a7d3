"""A few instance types with their true limits.

`shared`: volumes, network interfaces and NVMe instance stores take slots from one limit. `dedicated`: volumes have a
limit of their own. From the tables of volume limits in the Amazon EBS user guide.
"""

from dataclasses import dataclass
from enum import StrEnum


class Hypervisor(StrEnum):
    NITRO = "nitro"
    XEN = "xen"


class LimitType(StrEnum):
    SHARED = "shared"
    DEDICATED = "dedicated"


@dataclass(frozen=True)
class InstanceType:
    name: str
    hypervisor: Hypervisor
    limit: int
    """Volumes that may be attached, the root volume among them."""
    limit_type: LimitType = LimitType.SHARED
    nvme_stores: int = 0
    """NVMe instance store volumes."""
    cards: int = 1
    """EBS cards, each with its share of the volumes."""

    def volume_limit(self, network_interfaces: int) -> int:
        if self.hypervisor is Hypervisor.XEN or self.limit_type is LimitType.DEDICATED:
            return self.limit
        return self.limit - network_interfaces - self.nvme_stores


INSTANCE_TYPES = {
    item.name: item
    for item in (
        InstanceType("t3.micro", Hypervisor.NITRO, 28),
        InstanceType("m5.large", Hypervisor.NITRO, 28),
        InstanceType("m5d.4xlarge", Hypervisor.NITRO, 28, nvme_stores=2),
        InstanceType("m7i.large", Hypervisor.NITRO, 32, LimitType.DEDICATED),
        InstanceType("m7i.8xlarge", Hypervisor.NITRO, 48, LimitType.DEDICATED),
        InstanceType("r8gb.48xlarge", Hypervisor.NITRO, 128, LimitType.DEDICATED, cards=2),
        InstanceType("t2.micro", Hypervisor.XEN, 39),
        InstanceType("m4.large", Hypervisor.XEN, 39),
    )
}
