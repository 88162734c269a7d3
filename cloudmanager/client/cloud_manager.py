"""The client for threads."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, Unpack

from cloudmanager.client import calls
from cloudmanager.client import claim as claiming
from cloudmanager.client.calls import ListRequest
from cloudmanager.client.claim import OnProgress
from cloudmanager.client.connection import ServiceConnection
from cloudmanager.client.exchange import RETRY_SECONDS, retry_budget
from cloudmanager.client.exported_disk import ExportedDisk
from cloudmanager.client.kept_disk import ExportOptions, claim_request, terms_of
from cloudmanager.client.model import (
    Access,
    Attachment,
    AuditEvent,
    Disk,
    Export,
    ExportState,
    Health,
    Node,
    Provider,
)
from cloudmanager.client.service import Service

Item = TypeVar("Item")


class CloudManager:
    """A cloudmanager service. Thread-safe.

    `url` is `http://host:8600`, `https://…` or `unix:/run/cloudmanager.sock`. What is not given comes from
    CLOUDMANAGER_URL and CLOUDMANAGER_TOKEN; without those it is the service of this machine. `retry_seconds` bounds
    how long a call is tried again while the service is away or asks to wait. Every method may raise Unreachable,
    UnexpectedAnswer and ServiceError. `certificates` is a directory with ca-cert.pem, client-cert.pem and
    client-key.pem, for disks whose server asks for one; otherwise CLOUDMANAGER_CERTIFICATES names it.

    Used as a context manager it keeps its connections open; otherwise each call makes its own.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        retry_seconds: float = RETRY_SECONDS,
        certificates: Path | str | None = None,
        patience_seconds: float | None = None,
    ) -> None:
        self._connection = ServiceConnection(Service.of(url, token, certificates))
        self._retry_seconds = retry_budget(retry_seconds, patience_seconds)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._connection.service.url!r})"

    def __enter__(self) -> Self:
        self._connection.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.__exit__(kind, error, trace)

    # Exports

    def export(
        self, disk: str, access: Access | str = Access.READ_ONLY, **options: Unpack[ExportOptions]
    ) -> ExportedDisk:
        """Exports a disk while a block lasts: `with manager.export("prod:evidence-7") as disk:`.

        The export is renewed in the background and released at the end of the block. The keywords are those of
        ExportOptions; an unknown one raises TypeError.
        """
        terms = terms_of(options, self._retry_seconds, interrupt=False)
        return ExportedDisk(self._connection, claim_request(disk, access, options), terms)

    def claim(
        self,
        disk: str,
        access: Access | str = Access.READ_ONLY,
        *,
        ttl_seconds: int | None = None,
        holder: str | None = None,
        note: str = "",
        idempotency_key: str | None = None,
    ) -> Export:
        """Asks for an export and returns immediately; it may not be ready yet.

        You renew and release it yourself; `export` does both for you.

        The same `idempotency_key` with the same request returns the same export. Without a key this holds for
        the retries of this call. Raises InvalidRequest, NotFound, Conflict, Refused.
        """
        options: ExportOptions = {"ttl_seconds": ttl_seconds, "holder": holder, "note": note}
        wanted = claim_request(disk, access, options, idempotency_key or calls.new_key())
        return self._connection.run(calls.claim(wanted, self._retry_seconds))

    def wait(self, export_id: str, timeout: float | None = None, on_progress: OnProgress | None = None) -> Export:
        """Waits until an export is ready and returns it.

        `timeout` is in seconds; None waits until the service gives up. `on_progress` is called with each answer.
        Raises NotReadyInTime, or the error of an export that failed or ended.
        """
        export = self.get(export_id)
        return self._connection.run(claiming.until_ready(export, self._retry_seconds, timeout, on_progress))

    def get(self, export_id: str) -> Export:
        """One export, with its credentials. Raises ExportNotFound."""
        return self._connection.run(calls.get(export_id, self._retry_seconds))

    def exports(
        self,
        *,
        disk: str = "",
        holder: str = "",
        access: Access | str | None = None,
        states: Iterable[ExportState | str] = (),
        node: str = "",
    ) -> Iterator[Export]:
        """The exports, newest first and without credentials. Exports that ended recently are included.

        Each argument narrows the list. Pages are requested as you iterate.
        """
        return self._all(calls.exports(disk, holder, access, states, node))

    def renew(self, export_id: str, ttl_seconds: int | None = None) -> Export:
        """Extends an export: its time to live starts again now.

        `ttl_seconds` sets a new one. Raises ExportOver, ExportNotFound.
        """
        return self._connection.run(calls.renew(export_id, ttl_seconds, self._retry_seconds))

    def release(self, export_id: str) -> Export:
        """Releases an export.

        Releasing it again changes nothing. Raises ExportNotFound once the service has forgotten it.
        """
        return self._connection.run(calls.release(export_id, self._retry_seconds))

    # Maintenance: who acted and why is kept in the audit trail

    def force_release(self, export_id: str, *, by: str = "", reason: str = "") -> Export:
        """Ends an export immediately: its clients are disconnected.

        `by` and `reason` go into the audit trail. Raises ExportNotFound.
        """
        return self._connection.run(calls.force_release(export_id, by, reason, self._retry_seconds))

    def pause(self, provider: str, *, by: str = "", reason: str = "") -> Provider:
        """Stops a provider from making new exports (ProviderPaused).

        Its existing exports continue. Raises ProviderNotFound.
        """
        return self._connection.run(calls.act_on_provider("pause", provider, by, reason, self._retry_seconds))

    def resume(self, provider: str, *, by: str = "", reason: str = "") -> Provider:
        """Ends a pause. Raises ProviderNotFound."""
        return self._connection.run(calls.act_on_provider("resume", provider, by, reason, self._retry_seconds))

    def drain(self, node: str, *, by: str = "", reason: str = "") -> Node:
        """Stops a node from taking new exports (NodeDraining).

        Its state is `drained` once nothing is left on it. Raises NodeNotFound.
        """
        return self._connection.run(calls.act_on_node("drain", node, by, reason, self._retry_seconds))

    def undrain(self, node: str, *, by: str = "", reason: str = "") -> Node:
        """Ends a drain. Raises NodeNotFound."""
        return self._connection.run(calls.act_on_node("undrain", node, by, reason, self._retry_seconds))

    # Lists and single records

    def disks(
        self,
        text: str = "",
        *,
        provider: str = "",
        labels: Mapping[str, str] | None = None,
        location: str = "",
        state: str = "",
    ) -> Iterator[Disk]:
        """The disks that the providers can see now.

        `text` is a part of the name, `labels` must all match, `location` is a zone or region, and `state` is the
        cloud's own term. Pages are requested as you iterate.
        """
        return self._all(calls.disks(text, provider, labels or {}, location, state))

    def disk(self, disk: str) -> Disk:
        """What the provider of a disk says about it now. Raises InvalidDiskId, AmbiguousDisk, DiskNotFound."""
        return self._connection.run(calls.disk(disk, self._retry_seconds))

    def attachments(self) -> Iterator[Attachment]:
        """The disks that are attached to nodes of the service, with their state and last error."""
        return self._all(calls.attachments())

    def providers(self) -> Iterator[Provider]:
        """The configured providers, whether each works, and whether it is paused."""
        return self._all(calls.providers())

    def nodes(self) -> Iterator[Node]:
        """The machines that share the store of the service, and whether each is drained."""
        return self._all(calls.nodes())

    def audit(self, *, export_id: str = "") -> Iterator[AuditEvent]:
        """The audit trail, newest first: which disk was exported to whom, and when."""
        return self._all(calls.audit(export_id))

    def health(self) -> Health:
        """Whether the service can serve requests now.

        This is not retried: it raises Unreachable on the first failure.
        """
        return self._connection.run(calls.health())

    def _all(self, wanted: ListRequest[Item]) -> Iterator[Item]:
        """Asks for a page when the one before has been read."""
        token = None
        while True:
            page = self._connection.run(calls.page(wanted, token, self._retry_seconds))
            yield from page.items
            token = page.next_page
            if token is None:
                return
