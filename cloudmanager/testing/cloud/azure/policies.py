"""Azure's published request limits, by the operation: of the resource, of the subscription and region, of ARM.

https://learn.microsoft.com/azure/virtual-machines/compute-throttling-limits (read 2026-11-29) and
https://learn.microsoft.com/azure/azure-resource-manager/management/request-limits-and-throttling.
"""

from dataclasses import dataclass

from cloudmanager.testing.cloud.limits import Limit


@dataclass(frozen=True)
class _Policy:
    """Refill a minute and burst, of one machine and of a subscription in a region; None: no limit."""

    name: str
    resource: tuple[int, int] | None
    subscription: tuple[int, int]


_LOW_COST_GET = _Policy("LowCostGet", (12, 36), (8000, 24000))
_HIGH_COST_GET = _Policy("HighCostGet", None, (300, 900))
_UPDATE = _Policy("UpdateVM", (4, 12), (500, 1500))
_GET_OPERATION = _Policy("GetOperation", (15, 45), (5000, 15000))
_POLICIES = {
    "VirtualMachines_Get": _LOW_COST_GET,
    "VirtualMachines_ListAvailableSizes": _LOW_COST_GET,
    "VirtualMachines_List": _HIGH_COST_GET,
    "VirtualMachines_ListAll": _HIGH_COST_GET,
    "VirtualMachines_AttachDetachDataDisks": _UPDATE,
    "Operations_Get": _GET_OPERATION,
}
_ARM_READS = (25 * 60, 250)
_ARM_WRITES = (10 * 60, 200)


def limits_of(operation: str, subscription: str, machine: str, *, mutates: bool) -> list[Limit]:
    """`machine` is the key of the virtual machine that the request is about, or whose operation it looks at."""
    refill, burst = _ARM_WRITES if mutates else _ARM_READS
    found = [Limit("subscription-writes" if mutates else "subscription-reads", subscription, burst, refill)]
    policy = _POLICIES.get(operation.partition("/")[0])
    if policy is None:
        return found
    refill, burst = policy.subscription
    found.append(Limit(f"{policy.name}SubscriptionMaximum", subscription, burst, refill))
    if policy.resource is not None and machine:
        refill, burst = policy.resource
        found.append(Limit(f"{policy.name}Resource", machine, burst, refill))
    return found
