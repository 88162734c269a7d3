"""From a cloud's name of a disk to the service's."""

from collections.abc import Iterator

from cloudmanager.client.cloud_manager import CloudManager
from cloudmanager.client.errors import InvalidDiskId, NotFound
from cloudmanager.client.openrelik.descriptor import Descriptor
from cloudmanager.client.openrelik.errors import DiskNotNamed

_SHOWN = 5


def disk_id(manager: CloudManager, descriptor: Descriptor) -> str:
    """Raises DiskNotNamed, and what the service answers."""
    if descriptor.provider_type is None:
        return descriptor.name
    found = dict.fromkeys(_candidates(manager, descriptor))
    if len(found) == 1:
        return next(iter(found))
    wanted = f"a {descriptor.provider_type} disk named {descriptor.name}"
    if not found:
        raise DiskNotNamed(f"The service finds no {wanted[2:]}: see `cloudmanager disks`.")
    raise DiskNotNamed(
        f"The service finds several that could be {wanted} ({', '.join(list(found)[:_SHOWN])}): "
        f"describe the disk as cloud:cloudmanager:disk, by one of these."
    )


def _candidates(manager: CloudManager, descriptor: Descriptor) -> Iterator[str]:
    """One for each disk: what a provider can name by itself needs no search through all of its disks."""
    providers = [provider.name for provider in manager.providers() if provider.type == descriptor.provider_type]
    if not providers:
        raise DiskNotNamed(
            f"The service has no provider of type {descriptor.provider_type}, which {descriptor.name} needs: "
            "see `cloudmanager plugins` on its machine."
        )
    for provider in providers:
        try:
            yield manager.disk(f"{provider}:{descriptor.name}").id
        except (InvalidDiskId, NotFound):
            yield from _searched(manager, provider, descriptor.name)


def _searched(manager: CloudManager, provider: str, name: str) -> Iterator[str]:
    """The disks whose last part is the name: a zone or a resource group may stand before it."""
    for disk in manager.disks(name, provider=provider):
        if disk.id.rpartition("/")[2] == name or disk.labels.get("Name") == name:
            yield disk.id
