"""What an exported disk offers, whether threads or coroutines use it."""

import logging
import os
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cloudmanager.client import last_resort
from cloudmanager.client.address import NbdAddress
from cloudmanager.client.calls import Wanted
from cloudmanager.client.claim import Claim
from cloudmanager.client.errors import ExportLost, InvalidSetup, UnexpectedAnswer
from cloudmanager.client.model import Access, Export
from cloudmanager.client.options import Terms
from cloudmanager.client.service import Service
from cloudmanager.client.through import Through

if TYPE_CHECKING:
    from cloudmanager.client import ways


log = logging.getLogger(__name__)


class KeptDisk:
    """A disk that is exported for as long as the `with` block lasts."""

    def __init__(self, service: Service, wanted: Wanted, terms: Terms) -> None:
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
        return self.export.id

    @property
    def disk(self) -> str:
        """As it was asked for, `provider:native-id`."""
        return self._wanted.disk

    @property
    def access(self) -> Access:
        return self._wanted.access

    # What was last seen

    @property
    def export(self) -> Export:
        """As last seen, also when it is lost."""
        return self._begun().export

    @property
    def expires_at(self) -> datetime:
        """By the service's clock, unless it is renewed until then, as it is while the block lasts."""
        return self.export.expires_at

    @property
    def lost(self) -> ExportLost | None:
        """The error that `check` raises, without raising it."""
        claim = self._begun()
        if self._address is not None and self._is_mine():  # in a forked process nobody follows the renewals
            claim.expire()
        return claim.lost

    def check(self) -> None:
        """Raises ExportLost if the export is over. It costs no request: call it as often as you like."""
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
    def through(self) -> Through:
        """The service as a way to its bytes, for `deploy`."""
        self.check()
        return Through(self._service, self.id)

    @property
    def size_bytes(self) -> int:
        return self.address.size_bytes or 0

    def open(self, way: "ways.Way | None" = None) -> AbstractContextManager[Path]:
        """A path to read the disk at, by the best way that this machine allows, or by `way`."""
        from cloudmanager.client import ways  # noqa: PLC0415 - who only wants the address needs none of them

        return ways.open_disk(self.address, way)

    def device(self, *, read_only: bool = False) -> "AbstractContextManager[ways.DiskDevice]":
        """A free /dev/nbdN, connected while the `with` block of this call lasts. Needs root and the nbd module."""
        from cloudmanager.client import ways  # noqa: PLC0415 - as in open

        return ways.device(self.address, read_only=read_only)

    def file(self, *, read_only: bool = False) -> "AbstractContextManager[ways.DiskFile]":
        """An ordinary file, by nbdfuse. Needs /dev/fuse."""
        from cloudmanager.client import ways  # noqa: PLC0415 - as in open

        return ways.file(self.address, read_only=read_only)

    def stub(self, path: Path | str) -> "AbstractContextManager[ways.Stub]":
        """A small qcow2 image at `path` that refers to the address. Needs no privilege."""
        from cloudmanager.client import ways  # noqa: PLC0415 - as in open

        return ways.stub(self.address, path)

    def mount(
        self, where: Path | str | None = None, *, part: str | None = None, way: "ways.Way | None" = None
    ) -> "AbstractContextManager[ways.MountedDisk]":
        """A file system of the disk, read-only and without a replay of its journal. Needs root."""
        from cloudmanager.client import ways  # noqa: PLC0415 - as in open

        return ways.mount(self.address, where, part=part, way=way)

    # For those who keep it

    def _begin(self, claim: Claim) -> None:
        """From here on this process has to give the export back."""
        self._pid = os.getpid()
        self._claim = claim
        last_resort.hold(self._service, claim.export)

    def _end(self, is_over: bool) -> None:
        """It is given back, or as good as possible."""
        self._address = None
        last_resort.let_go(self._begun().export.id, is_over=is_over)

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
        self._begun().saw(export)
        self.check()

    def _is_mine(self) -> bool:
        """Whether this process began it, not one that it was forked from."""
        return self._pid == os.getpid()

    def _tell_lost(self, lost: ExportLost) -> bool:
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
        """At the end of the block. A program that is being ended is not held up, and a loss is not told twice."""
        lost = self._begun().lost
        if lost is None or isinstance(error, ExportLost):
            return None
        return lost.again() if error is None or isinstance(error, Exception) else None
