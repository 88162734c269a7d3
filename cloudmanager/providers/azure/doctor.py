"""What `cloudmanager doctor` says about Azure."""

from collections.abc import Callable, Iterator, Sequence

from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.model import Finding, Severity
from cloudmanager.providers._capacity import Capacity
from cloudmanager.providers.azure.errors import MachineGone
from cloudmanager.providers.azure.facts import MachineFacts
from cloudmanager.providers.azure.machine import ThisMachine
from cloudmanager.providers.azure.wiring import Parts

_ROLE = "Give the identity of this machine the role in docs/providers/azure.md."


def diagnose(machine: ThisMachine, parts: Callable[[], Parts], groups: Sequence[str]) -> Iterator[Finding]:
    """`groups` are those of find_in. In the order of need; stops at the first problem that hides the rest."""
    try:
        node = machine.node()
        yield Finding("machine", Severity.OK, f"{node.native_id} in {node.location}")
        facts = parts().compute.machine(machine.id)
    except MachineGone:
        yield Finding("machine", Severity.PROBLEM, "Azure has no such machine.", "Correct vm, or leave it empty.")
        return
    except CloudManagerError as error:
        yield Finding("machine", Severity.PROBLEM, error.detail, _ROLE)
        return
    yield Finding("permission to read the machine", Severity.OK, facts.provisioning_state)
    for group in groups or (None,):
        yield _list(parts(), group)
    yield _limit(parts(), facts)


def _list(parts: Parts, group: str | None) -> Finding:
    """Asks for what `find` lists and nothing else."""
    subject = f"permission to list disks of {group}" if group else "permission to list disks"
    try:
        parts.compute.list_disks(group, None)
    except CloudManagerError as error:
        other = f"Or take {group} out of find_in." if group else "Or set find_in to the groups that may be read."
        return Finding(subject, Severity.WARNING, error.detail, f"{_ROLE} {other}")
    return Finding(subject, Severity.OK, "granted")


def _limit(parts: Parts, facts: MachineFacts) -> Finding:
    used = len(facts.data_disks)
    if parts.compute.max_disks:
        return Capacity(used, parts.compute.max_disks, "max_disks").finding("data disks")
    try:
        limit = parts.compute.max_data_disks(facts)
    except CloudManagerError as error:
        return Capacity(used, None, f"{error.detail} {_ROLE}").finding("data disks")
    if limit is None:
        return Finding("data disks", Severity.OK, f"{used} disks attached; {facts.size} has no published limit")
    return Capacity(used, limit, facts.size).finding("data disks")
