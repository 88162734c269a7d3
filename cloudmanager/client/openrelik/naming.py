"""Finds the service's name of a disk from the cloud's name."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from cloudmanager.client.cloud_manager import CloudManager
from cloudmanager.client.errors import AmbiguousDisk, InvalidDiskId, NotFound
from cloudmanager.client.model import Disk
from cloudmanager.client.openrelik.descriptor import Descriptor
from cloudmanager.client.openrelik.errors import DiskNotNamed

_SHOWN = 5
_VOLUME = re.compile(r"vol-[0-9a-f]+")
_GCE = re.compile(r"gce://projects/(?P<project>.+)/(?P<scope>zones|regions)/(?P<location>[^/]+)/disks/[^/]+")
_AZURE = re.compile(r"azure://subscriptions/(?P<subscription>[^/]+)/resourcegroups/(?P<resource_group>[^/]+)/.*")
_AWS = re.compile(r"aws://(?P<region>[^/]+)/.*")


def disk_id(manager: CloudManager, descriptor: Descriptor) -> str:
    """Raises DiskNotNamed, and what the service answers."""
    if descriptor.provider_type is None:
        return descriptor.name
    found = {disk.canonical_id: disk for disk in _candidates(manager, descriptor)}
    fitting = [disk for disk in found.values() if _is_there(disk, descriptor)]
    if len(fitting) == 1:
        return fitting[0].id
    wanted = f"{descriptor.provider_type} disk named {descriptor.name}{_where(descriptor)}"
    if fitting:
        raise DiskNotNamed(
            f"The service finds several that could be a {wanted} ({_listed(fitting)}): say where it is, or describe it "
            "as cloud:cloudmanager:disk, by one of these."
        )
    if found:
        raise DiskNotNamed(f"The service finds no {wanted}: what has the name is {_listed(found.values())}.")
    raise DiskNotNamed(f"The service finds no {wanted}: see `cloudmanager disks`.")


def _candidates(manager: CloudManager, descriptor: Descriptor) -> Iterator[Disk]:
    """Every disk that is meant, or could be: that a provider knows one by a bare name does not make it the only one."""
    full = _full_name(descriptor)
    for provider in _providers(manager, descriptor):
        yield from _described(manager, f"{provider}:{full or descriptor.name}")
        if full is None:
            yield from _searched(manager, provider, descriptor.name)


def _full_name(descriptor: Descriptor) -> str | None:
    """The name that means one disk at most, where the descriptor says enough for it: no list need be read."""
    name, location = descriptor.name, descriptor.location
    if "/" in name:
        return name
    if descriptor.provider_type == "gce" and "zone" in location:
        disk = f"zones/{location['zone']}/disks/{name}"
        return f"projects/{location['project']}/{disk}" if "project" in location else disk
    if descriptor.provider_type == "azure" and "resource_group" in location:
        return f"{location['resource_group']}/{name}"
    if descriptor.provider_type == "aws" and _VOLUME.fullmatch(name.casefold()):
        return f"{location['region']}/{name}" if "region" in location else name
    return None


def _described(manager: CloudManager, name: str) -> list[Disk]:
    """None where the provider needs more than the name, or has no such disk."""
    try:
        return [manager.disk(name)]
    except (InvalidDiskId, NotFound, AmbiguousDisk):
        return []


def _providers(manager: CloudManager, descriptor: Descriptor) -> list[str]:
    every = [provider.name for provider in manager.providers() if provider.type == descriptor.provider_type]
    if not every:
        raise DiskNotNamed(
            f"The service has no provider of type {descriptor.provider_type}, which {descriptor.name} needs: "
            "see `cloudmanager plugins` on its machine."
        )
    if descriptor.provider and descriptor.provider not in every:
        raise DiskNotNamed(
            f"The service has no provider {descriptor.provider} of type {descriptor.provider_type}; it has "
            f"{', '.join(every)}."
        )
    return [descriptor.provider] if descriptor.provider else every


def _searched(manager: CloudManager, provider: str, name: str) -> Iterator[Disk]:
    """The disks whose last part is the name: a zone or a resource group may stand before it."""
    for disk in manager.disks(name.rpartition("/")[2], provider=provider):
        spellings = (disk.id.partition(":")[2], disk.id.rpartition("/")[2], disk.labels.get("Name", ""))
        if name.casefold() in (spelling.casefold() for spelling in spellings):
            yield disk


def _is_there(disk: Disk, descriptor: Descriptor) -> bool:
    """Whether it is where the descriptor says."""
    facts = _FACTS[descriptor.provider_type or ""](disk)
    return all(facts.get(fact, "").casefold() == value.casefold() for fact, value in descriptor.location.items())


def _gce_facts(disk: Disk) -> dict[str, str]:
    found = _GCE.fullmatch(disk.canonical_id)
    if found is None:
        return {}
    if found["scope"] == "regions":
        return {"project": found["project"], "region": found["location"]}
    return {
        "project": found["project"],
        "zone": found["location"],
        "region": found["location"].rpartition("-")[0],
    }


def _aws_facts(disk: Disk) -> dict[str, str]:
    found = _AWS.fullmatch(disk.canonical_id)
    return {"region": found["region"] if found else "", "zone": disk.location}


def _azure_facts(disk: Disk) -> dict[str, str]:
    """A location is `westeurope-1`, or `westeurope` where it has no zone."""
    found = _AZURE.fullmatch(disk.canonical_id)
    region, _, zone = disk.location.partition("-")
    return {**(found.groupdict() if found else {}), "region": region, "zone": zone}


_FACTS: Mapping[str, Callable[[Disk], dict[str, str]]] = {"gce": _gce_facts, "aws": _aws_facts, "azure": _azure_facts}
"""Where a disk is, according to its provider."""


def _where(descriptor: Descriptor) -> str:
    return "".join(f", {fact} {value}" for fact, value in descriptor.location.items())


def _listed(disks: Iterable[Disk]) -> str:
    names = [disk.id for disk in disks]
    return ", ".join([*names[:_SHOWN], *(["…"] if len(names) > _SHOWN else [])])
