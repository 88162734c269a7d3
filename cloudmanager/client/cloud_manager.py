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
        """`with manager.export("prod:evidence-7") as disk:` exports a disk for as long as the block lasts.

        It is renewed however long that is. The keywords are those of ExportOptions.
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
        """Asks for an export and returns at once. Nobody renews or releases it but you: see `export`.

        Asked again with the same key and the same request, the answer is the same export. Without a key, that holds for
        the attempts of this call.
        """
        options: ExportOptions = {"ttl_seconds": ttl_seconds, "holder": holder, "note": note}
        wanted = claim_request(disk, access, options, idempotency_key or calls.new_key())
        return self._connection.run(calls.claim(wanted, self._retry_seconds))

    def wait(self, export_id: str, timeout: float | None = None, on_progress: OnProgress | None = None) -> Export:
        """The export once it is ready. Raises NotReadyInTime after `timeout` seconds, and why it failed or ended."""
        export = self.get(export_id)
        return self._connection.run(claiming.until_ready(export, self._retry_seconds, timeout, on_progress))

    def get(self, export_id: str) -> Export:
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
        """Newest first, without credentials; with what has ended lately."""
        return self._all(calls.exports(disk, holder, access, states, node))

    def renew(self, export_id: str, ttl_seconds: int | None = None) -> Export:
        """Its life begins anew now. Raises ExportOver."""
        return self._connection.run(calls.renew(export_id, ttl_seconds, self._retry_seconds))

    def release(self, export_id: str) -> Export:
        """Releasing again changes nothing. Raises ExportNotFound once it is forgotten."""
        return self._connection.run(calls.release(export_id, self._retry_seconds))

    # An operator's orders: who gives them and why is kept in the audit trail

    def force_release(self, export_id: str, *, by: str = "", reason: str = "") -> Export:
        """Ends the export at once: its clients are cut off."""
        return self._connection.run(calls.force_release(export_id, by, reason, self._retry_seconds))

    def pause(self, provider: str, *, by: str = "", reason: str = "") -> Provider:
        """It makes no new exports (ProviderPaused). Those that it has go on."""
        return self._connection.run(calls.act_on_provider("pause", provider, by, reason, self._retry_seconds))

    def resume(self, provider: str, *, by: str = "", reason: str = "") -> Provider:
        return self._connection.run(calls.act_on_provider("resume", provider, by, reason, self._retry_seconds))

    def drain(self, node: str, *, by: str = "", reason: str = "") -> Node:
        """It takes no new exports (NodeDraining). When nothing is left on it, its state is drained."""
        return self._connection.run(calls.act_on_node("drain", node, by, reason, self._retry_seconds))

    def undrain(self, node: str, *, by: str = "", reason: str = "") -> Node:
        return self._connection.run(calls.act_on_node("undrain", node, by, reason, self._retry_seconds))

    # What there is

    def disks(
        self,
        text: str = "",
        *,
        provider: str = "",
        labels: Mapping[str, str] | None = None,
        location: str = "",
        state: str = "",
    ) -> Iterator[Disk]:
        """What the providers can see now. `text` is a part of the name, `state` the cloud's own word."""
        return self._all(calls.disks(text, provider, labels or {}, location, state))

    def disk(self, disk: str) -> Disk:
        """What its provider says about it now."""
        return self._connection.run(calls.disk(disk, self._retry_seconds))

    def attachments(self) -> Iterator[Attachment]:
        return self._all(calls.attachments())

    def providers(self) -> Iterator[Provider]:
        return self._all(calls.providers())

    def nodes(self) -> Iterator[Node]:
        return self._all(calls.nodes())

    def audit(self, *, export_id: str = "") -> Iterator[AuditEvent]:
        """Newest first: who had which disk when."""
        return self._all(calls.audit(export_id))

    def health(self) -> Health:
        """Whether it can serve now. Asked once: raises Unreachable right away."""
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
