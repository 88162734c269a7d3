"""What an exported disk offers, whether threads or coroutines use it."""

import atexit
import logging
import os
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from cloudmanager.client import calls
from cloudmanager.client.address import NbdAddress
from cloudmanager.client.calls import ClaimRequest
from cloudmanager.client.claim import LOOK_SECONDS, Claim, OnLost, OnProgress
from cloudmanager.client.connection import ServiceConnection
from cloudmanager.client.errors import ClientError, ExportLost, InvalidRequest, InvalidSetup, UnexpectedAnswer
from cloudmanager.client.exchange import with_retries
from cloudmanager.client.model import Access, Export
from cloudmanager.client.service import Service, UploadEndpoint, default_holder

if TYPE_CHECKING:
    from cloudmanager.client import access_methods
    from cloudmanager.client.access_methods.record import Record

ANSWER_SECONDS = 5.0
log = logging.getLogger(__name__)


class ExportOptions(TypedDict, total=False):
    """The keywords of `export`. All of them can be left out."""

    ttl_seconds: int | None
    """How long the export stays when this process is killed or cut off. By default the service decides."""
    holder: str | None
    """Shown to others whom the export excludes. By default CLOUDMANAGER_HOLDER, or host and pid."""
    note: str
    idempotency_key: str | None
    """Of an export that an earlier process may have asked for with the same words, before it was killed: if that still
    lives, it is taken over, and lives anew. Otherwise a key is made."""
    ready_seconds: float | None
    """How long it is awaited. By default until the service gives it up."""
    look_seconds: float
    """How often the service is asked whether the export is still there: 10."""
    on_progress: OnProgress
    """Called with the Export while it is awaited: at once, every two seconds, and when it is ready."""
    on_lost: OnLost
    """Called with the ExportLost as soon as that is noticed, from a thread of the client's, or from the event loop."""
    interrupt: bool
    """Stop the block as soon as the loss is noticed, so that it raises ExportLost. For threads: as Ctrl-C does, in the
    main thread only, and False by default. For coroutines: the task is cancelled, and True by default."""
    release_on_sigterm: bool
    """SIGTERM, and SIGHUP where it is not ignored or handled, end the block by SystemExit instead of ending the process
    on the spot. Main thread only."""


@dataclass(frozen=True)
class Terms:
    """How it is awaited and kept."""

    retry_seconds: float
    ready_seconds: float | None = None
    look_seconds: float = LOOK_SECONDS
    on_progress: OnProgress | None = None
    on_lost: OnLost | None = None
    interrupt: bool = False
    release_on_sigterm: bool = False


def check_keywords(given: Mapping[str, object], known: type, function: str) -> None:
    """Raises TypeError for a keyword that the TypedDict `known` does not have, as Python does for a wrong argument.

    `**options: Unpack[ExportOptions]` says so to type checkers only: at run time it takes every keyword.
    """
    for name in given:
        if name not in known.__annotations__:
            near = get_close_matches(name, known.__annotations__, n=1)
            advice = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{function}() has no keyword {name!r}{advice}")


def claim_request(disk: str, access: Access | str, options: ExportOptions, key: str = "") -> ClaimRequest:
    """Raises InvalidRequest, and TypeError for a keyword that is none of ExportOptions."""
    check_keywords(options, ExportOptions, "export")
    holder = options.get("holder") or default_holder()
    key = key or options.get("idempotency_key") or ""
    return ClaimRequest(disk, _access(access), holder, options.get("ttl_seconds"), options.get("note", ""), key)


def _access(access: Access | str) -> Access:
    try:
        return Access(access)
    except ValueError:
        raise InvalidRequest(f"{access!r} is no access: ask for {', '.join(Access)}.") from None


def terms_of(options: ExportOptions, retry_seconds: float, *, interrupt: bool) -> Terms:
    """`interrupt` is what holds where the options do not say it."""
    return Terms(
        retry_seconds,
        options.get("ready_seconds"),
        options.get("look_seconds", LOOK_SECONDS),
        options.get("on_progress"),
        options.get("on_lost"),
        interrupt=options.get("interrupt", interrupt),
        release_on_sigterm=options.get("release_on_sigterm", False),
    )


class KeptDisk:
    """A disk that is exported for as long as the `with` block lasts."""

    def __init__(self, service: Service, wanted: ClaimRequest, terms: Terms) -> None:
        self._service = service
        self._wanted = wanted
        self._terms = terms
        self._claim: Claim | None = None
        self._address: NbdAddress | None = None
        self._pid = 0

    def __repr__(self) -> str:
        state = self._claim.export.state if self._claim else "not begun"
        return f"<{type(self).__name__} {self.disk}, {self.access}, {state}>"

    # What does not change

    @property
    def id(self) -> str:
        """The id of the export."""
        return self.export.id

    @property
    def disk(self) -> str:
        """The disk as you named it, `provider:native-id`."""
        return self._wanted.disk

    @property
    def access(self) -> Access:
        """How the disk may be used."""
        return self._wanted.access

    # What was last seen

    @property
    def export(self) -> Export:
        """The export as the service last answered, also after it was lost."""
        return self._begun().export

    @property
    def expires_at(self) -> datetime:
        """By the service's clock, unless it is renewed until then, as it is while the block lasts."""
        return self.export.expires_at

    @property
    def lost(self) -> ExportLost | None:
        """The ExportLost that `check` would raise, or None."""
        claim = self._begun()
        if self._address is not None and self._is_mine():  # in a forked process nobody follows the renewals
            claim.expire()
        return claim.lost

    def check(self) -> None:
        """Raises ExportLost if the export is over. It sends no request, so you may call it often."""
        if lost := self.lost:
            raise lost.again()

    # The ways to the bytes: all of them raise ExportLost once the export is over

    @property
    def address(self) -> NbdAddress:
        """Stays the same, also when its server is replaced."""
        self.check()
        if self._address is None:
            raise self._not_begun()
        return self._address

    @property
    def uri(self) -> str:
        """`nbd://host:port/name`; with `nbds://` it takes the key of `address.credentials`, or a certificate."""
        return self.address.uri

    @property
    def upload_via(self) -> UploadEndpoint:
        """The service as an endpoint that writes the disk's content, for the keyword of that name of `deploy`."""
        self.check()
        return UploadEndpoint(self._service, self.id)

    @property
    def through(self) -> UploadEndpoint:
        """The deprecated name of `upload_via`."""
        warnings.warn("ExportedDisk.through is called upload_via now", DeprecationWarning, stacklevel=2)
        return self.upload_via

    @property
    def size_bytes(self) -> int:
        """The size of the disk."""
        return self.address.size_bytes or 0

    def open(self, method: "access_methods.AccessMethod | None" = None) -> AbstractContextManager[Path]:
        """A path to read the disk at, by the best access method of this machine, or by `method`."""
        from cloudmanager.client import access_methods  # noqa: PLC0415 - who only wants the address needs none of them

        return access_methods.open_disk(self.address, method)

    def device(self, *, read_only: bool = False) -> "AbstractContextManager[access_methods.DiskDevice]":
        """A free /dev/nbdN, connected while the `with` block of this call lasts. Needs root and the module nbd."""
        from cloudmanager.client import access_methods  # noqa: PLC0415 - as in open

        return access_methods.device(self.address, read_only=read_only)

    def file(self, *, read_only: bool = False) -> "AbstractContextManager[access_methods.DiskFile]":
        """An ordinary file, provided by nbdfuse. Needs /dev/fuse."""
        from cloudmanager.client import access_methods  # noqa: PLC0415 - as in open

        return access_methods.file(self.address, read_only=read_only)

    def stub(self, path: Path | str) -> "AbstractContextManager[access_methods.Stub]":
        """A small qcow2 image at `path` that refers to the address. Needs no privilege."""
        from cloudmanager.client import access_methods  # noqa: PLC0415 - as in open

        return access_methods.stub(self.address, path)

    def mount(
        self,
        where: Path | str | None = None,
        *,
        part: str | None = None,
        method: "access_methods.AccessMethod | None" = None,
    ) -> "AbstractContextManager[access_methods.MountedDisk]":
        """A file system of the disk, read-only and without a replay of its journal. Needs root."""
        from cloudmanager.client import access_methods  # noqa: PLC0415 - as in open

        return access_methods.mount(self.address, where, part=part, method=method)

    # For those who keep it

    def _begin(self, claim: Claim) -> None:
        """From here on this process has to give the export back."""
        self._pid = os.getpid()
        self._claim = claim
        _record(self._service, claim.export)

    def _end(self, is_over: bool) -> None:
        """It is given back, or as good as possible."""
        self._address = None
        _forget(self._begun().export.id, is_over=is_over)

    def _set_ready(self, export: Export) -> None:
        """Raises ExportLost if that was over at once, UnexpectedAnswer."""
        if export.address is None or export.size_bytes is None:
            raise UnexpectedAnswer(f"Export {export.id} is ready, but the answer has no address or no size.")
        if self._service.certificates and not export.address.uri.startswith("nbds:"):
            raise UnexpectedAnswer(
                f"Export {export.id} is served in the clear, though certificates were given for its encryption. Set "
                "[nbd] tls of the service, or give none."
            )
        self._address = replace(export.address, certificates=self._service.certificates)
        self._begun().update(export)
        self.check()

    def _is_mine(self) -> bool:
        """Whether this process began it, not one that it was forked from."""
        return self._pid == os.getpid()

    def _report_lost(self, lost: ExportLost) -> bool:
        """Tells whoever wants to know. False while it is awaited: then entering the block raises what happened."""
        if self._address is None:
            return False
        log.warning("%s", lost.detail)
        try:
            if self._terms.on_lost is not None:
                self._terms.on_lost(lost)
        except Exception:
            log.exception("on_lost failed")
        return True

    def _begun(self) -> Claim:
        if self._claim is None:
            raise self._not_begun()
        return self._claim

    def _not_begun(self) -> InvalidSetup:
        return InvalidSetup(f"{self.disk} is exported inside the `with` block only: with manager.export(…) as disk:")

    def _loss_to_raise(self, error: BaseException | None) -> ExportLost | None:
        """Runs at the end of the block. Does not delay a program that is being ended, nor report a loss twice."""
        lost = self._begun().lost
        if lost is None or isinstance(error, ExportLost):
            return None
        return lost.again() if error is None or isinstance(error, Exception) else None


@dataclass(frozen=True)
class _Unreleased:
    """An export that this process has to release."""

    service: Service
    record: "Record | None"
    """On this machine, for `cloudmanager cleanup`. None where it cannot be written."""
    pid: int
    """A forked process inherits this entry, but not the duty."""


_unreleased: dict[str, _Unreleased] = {}


def _record(service: Service, export: Export) -> None:
    """Notes that this process has to release the export, also when its `with` block never ends.

    atexit releases it when the interpreter ends first, as with an abandoned thread. `cloudmanager cleanup` releases it
    when the process is killed.
    """
    from cloudmanager.client.access_methods.record import Record  # noqa: PLC0415 - while the service makes the export ready
    from cloudmanager.client.access_methods.steps import HeldExport  # noqa: PLC0415 - as above

    record: Record | None
    try:
        record = Record.begin(of_export=True)
        record.note(HeldExport(service.url, export.id, export.disk))
    except (ClientError, OSError) as error:
        log.debug("export %s is not recorded on this machine: %s", export.id, error)
        record = None
    _unreleased[export.id] = _Unreleased(service, record, os.getpid())


def _forget(export_id: str, *, is_over: bool) -> None:
    """The export was released. One that could not be (not `is_over`) is left to `cloudmanager cleanup`."""
    known = _unreleased.pop(export_id, None)
    if known is not None and known.record is not None:
        known.record.forget() if is_over else known.record.leave()


@atexit.register
def _release_everything() -> None:
    for export_id, known in list(_unreleased.items()):
        if known.pid != os.getpid():
            continue
        try:
            ServiceConnection(known.service).run(with_retries(calls.release_request(export_id, ANSWER_SECONDS), 0))
        except ClientError as error:
            log.warning("export %s was not released; it ends by itself: %s", export_id, error.detail)
            _forget(export_id, is_over=False)
        else:
            _forget(export_id, is_over=True)
