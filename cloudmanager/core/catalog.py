"""Lists the disks and the providers."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cloudmanager.core.errors import CloudManagerError, InvalidRequest
from cloudmanager.core.model import AttachedAs, AttachmentState, Disk, DiskId, Node, Page, Problem, Query
from cloudmanager.core.plugins import Plugins, Provider
from cloudmanager.core.provider_nodes import ProviderNodes, problem_of
from cloudmanager.core.records import AttachmentRecord, MaintenanceAction
from cloudmanager.core.store import Store


@dataclass(frozen=True)
class ProviderStatus:
    """A configured provider, and this machine as it knows it."""

    name: str
    type: str
    node: Node | None = None
    error: Problem | None = None
    pause: MaintenanceAction | None = None
    """An operator lets it make no new exports."""


@dataclass(frozen=True)
class DiskUse:
    """What is done with a disk on this machine."""

    attached: AttachedAs | None = None
    exported_to: tuple[str, ...] = ()
    """Holders of exports that are not over."""


class Catalog:
    """Looks up what the configured providers offer."""

    def __init__(self, node: str, plugins: Plugins, store: Store, nodes: ProviderNodes) -> None:
        self._node = node
        self._plugins = plugins
        self._store = store
        self._nodes = nodes

    def disk(self, disk: str) -> Disk:
        disk_id = DiskId.parse(disk)
        return self._plugins[disk_id.provider].describe(disk_id)

    def uses(self, disks: Sequence[Disk]) -> tuple[DiskUse, ...]:
        """In the order of the disks. Asks the store alone, twice for all of them."""
        mine = (record for record in self._store.attachments.all() if record.node == self._node)
        attachments = {record.plan.disk.canonical_id: record for record in mine}
        holders: defaultdict[str, dict[str, None]] = defaultdict(dict)
        for export in self._store.exports.claiming(self._node):
            holders[export.disk.canonical_id][export.holder] = None
        return tuple(
            DiskUse(_attached_as(disk, attachments.get(disk.canonical_id)), tuple(holders.get(disk.canonical_id, ())))
            for disk in disks
        )

    def disks(self, provider: str | None, query: Query, page: str | None, limit: int | None) -> Page[Disk]:
        """One page of the disks of one provider, or of all, one provider after the other.

        A provider's own pages have a length of their own; with a limit, one that is longer is given in parts.
        """
        names = [provider] if provider else [each.name for each in self._plugins]
        position, _, token = (page or "").partition(":")
        at, _, shown = (position, "", "") if position in names else position.rpartition("+")
        if page and (at not in names or not (shown or "0").isdecimal()):
            raise InvalidRequest("The page token is not one that this list gave. Start again without it.")
        for name in names[names.index(at) if page else 0 :]:
            found = self._plugins[name].find(query, (token or None) if name == at else None)
            skipped = int(shown or 0) if name == at else 0
            rest = found.items[skipped:]
            if limit is not None and len(rest) > limit:
                return Page(rest[:limit], f"{name}+{skipped + limit}:{token if name == at else ''}")
            found = replace(found, items=rest)
            if found.next_page:
                return Page(found.items, f"{name}:{found.next_page}")
            following = names[names.index(name) + 1 :]
            if found.items and following:
                return Page(found.items, f"{following[0]}:")
            if found.items:
                return found
        return Page(())

    def providers(self) -> tuple[ProviderStatus, ...]:
        """As they answer now. For a provider that failed before, what is known: the caller does not wait for it."""
        pauses = self._store.maintenance.pauses()
        return tuple(self._status(provider, pauses.get(provider.name)) for provider in self._plugins)

    def pauses(self) -> dict[str, MaintenanceAction | None]:
        """By provider, also of those that are not paused. Asks no cloud."""
        paused = self._store.maintenance.pauses()
        return {provider.name: paused.get(provider.name) for provider in self._plugins}

    def known_status(self, provider: Provider) -> ProviderStatus:
        """Asks no cloud."""
        known = self._nodes.of(provider.name)
        pause = self._store.maintenance.pauses().get(provider.name)
        return ProviderStatus(provider.name, provider.type, known.node, problem_of(known), pause)

    def _status(self, provider: Provider, pause: MaintenanceAction | None) -> ProviderStatus:
        if self._nodes.of(provider.name).error:
            return self.known_status(provider)
        try:
            return ProviderStatus(provider.name, provider.type, provider.node(), pause=pause)
        except CloudManagerError as error:
            return ProviderStatus(provider.name, provider.type, error=Problem.of(error), pause=pause)


def _attached_as(disk: Disk, record: AttachmentRecord | None) -> AttachedAs | None:
    """A plan that is not carried out yet has attached nothing."""
    if disk.is_boot:
        return AttachedAs.BOOT
    if record is not None and record.is_ours and record.state is not AttachmentState.PLANNED:
        return AttachedAs.OURS
    return AttachedAs.FOREIGN if disk.is_attached else None
