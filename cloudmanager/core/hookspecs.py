"""The hooks that a plugin may implement.

A provider implements the hooks of `ProviderSpec`; the core calls each on exactly one provider. Every specification
has `provider`, the configured name, as its first argument: an implementation that does not need it leaves it out.
A plugin that is no provider may wrap any of them with `@hookimpl(wrapper=True)`.

Hooks are synchronous and are called from several threads at once. Only errors of `cloudmanager.core.errors` may leave
them, with the cloud's own code, `retriable` and `retry_after` kept.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pluggy

from cloudmanager.core.model import (
    Access,
    Attachment,
    AttachPlan,
    Device,
    Disk,
    DiskId,
    Finding,
    Node,
    NotAttached,
    Page,
    Query,
    Snapshot,
)

PROJECT = "cloudmanager"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True)
class ExportRequest:
    """What `authorize` decides on."""

    disk: Disk
    access: Access
    holder: str
    is_attached: bool
    """The disk is attached to this node already, so the export would cost no attach."""


class PluginSpec:
    """For every plugin."""

    @hookspec
    def register_providers(self) -> Iterable[type]:
        """The provider types that this plugin offers: classes with a `type` name and a `Settings` model.

        Each is called as `cls(name, settings)` for every `[providers.NAME]` of its type.
        """
        raise NotImplementedError

    @hookspec
    def authorize(self, provider: str, request: ExportRequest) -> None:
        """Refuses an export by raising `Refused` with the reason. Called before any claim is made."""


class ProviderSpec:
    """For providers."""

    @hookspec(firstresult=True)
    def keep_in(self, provider: str, directory: Path) -> None:
        """Optional: a directory of the service's own, for what must outlast it. All its providers have the same one.

        Only a service calls it, once, before any other hook. Raises ConfigurationError.
        """

    @hookspec(firstresult=True)
    def node(self, provider: str) -> Node:
        """Who and where this machine is for the provider. Raises ConfigurationError saying what was tried."""
        raise NotImplementedError

    @hookspec(firstresult=True)
    def describe(self, provider: str, disk_id: DiskId) -> Disk:
        """Facts about one disk, from its source. Raises InvalidDiskId (no call made), DiskNotFound.

        A name that is not unique in what the provider can see is refused: AmbiguousDisk, with the candidates.
        """
        raise NotImplementedError

    @hookspec(firstresult=True)
    def find(self, provider: str, query: Query, page_token: str | None) -> "Page[Disk]":
        """One page of the disks that the provider can see: every scope is covered when the pages are exhausted."""
        raise NotImplementedError

    @hookspec(firstresult=True)
    def plan_attach(self, provider: str, disk: Disk, access: Access) -> AttachPlan:
        """Chooses what the attach will use, and notes whether the disk is attached here already. Changes nothing."""
        raise NotImplementedError

    @hookspec(firstresult=True)
    def attach(self, provider: str, plan: AttachPlan, keep: Callable[[str], None]) -> Attachment:
        """Attaches as planned; does nothing if that was done. Returns when the cloud's own describe confirms it.

        The answer carries the plan's request id if it is proved that the plan made the attachment, else none, and the
        reason. That the disk is where the plan wanted it proves nothing: anybody may have put it there. The cloud's own
        record of the request does, or its answer. `keep(proof)` commits what an answer leaves; the next call for the
        plan finds it in `plan.proof`, also after a crash. Call it as soon as the cloud has taken the request, before
        waiting; with an empty text to withdraw it.
        """
        raise NotImplementedError

    @hookspec(firstresult=True)
    def locate(self, provider: str, disk: Disk) -> Device | NotAttached:
        """The disk's device on this node, verified by identity. Changes nothing.

        NotAttached only when that is certain (never None). Raises DeviceNotReady while the device has not appeared,
        DeviceMismatch when another disk is in its place.
        """
        raise NotImplementedError

    @hookspec(firstresult=True)
    def locate_all(self, provider: str, disks: Sequence[Disk]) -> Mapping[DiskId, Device | NotAttached]:
        """Optional: as `locate`, for disks that are being served, every few seconds: one call to the cloud for all.

        Waits for nothing. A device that is there proves nothing here: the cloud must say that the disk is attached.
        A disk of which nothing is certain is left out, and is then located alone. Raises when the cloud cannot be
        asked, which changes nothing for what is served.
        """
        raise NotImplementedError

    @hookspec(firstresult=True)
    def detach(self, provider: str, attachment: Attachment) -> None:
        """Detaches from this node only; does nothing if that was done. Returns when it is gone.

        Raises ForeignAttachment where the disk is attached, `attachment.proof` is empty and the cloud does not know
        the request either.
        """

    @hookspec(firstresult=True)
    def diagnose(self, provider: str) -> Iterable[Finding]:
        """Optional: what `cloudmanager doctor` should say about this provider."""
        raise NotImplementedError

    @hookspec(firstresult=True)
    def snapshot(self, provider: str, disk: Disk, name: str) -> Snapshot:
        """Optional: copies the disk's bytes as they are now, also while another machine has it.

        Idempotent by name; returns when the copy is complete, so it may take hours.
        """
        raise NotImplementedError

    @hookspec(firstresult=True)
    def restore(self, provider: str, snapshot: Snapshot, name: str) -> Disk:
        """Optional: a new disk with the snapshot's bytes, where this node can attach it. Idempotent by name."""
        raise NotImplementedError

    @hookspec(firstresult=True)
    def delete(self, provider: str, item: Disk | Snapshot) -> None:
        """Optional: deletes what `snapshot` or `restore` made; does nothing if that is gone.

        Raises InvalidRequest for anything else: cloudmanager deletes nothing that it did not make.
        """


MANDATORY_HOOKS = ("node", "describe", "find", "plan_attach", "attach", "locate", "detach")
CAPABILITY_HOOKS = ("snapshot", "restore", "delete")
"""A provider has a capability when it implements its hook."""


def hook_names(spec: type[Any]) -> list[str]:
    """The hooks that a specification class declares, in their order."""
    return [name for name in vars(spec) if not name.startswith("_")]
