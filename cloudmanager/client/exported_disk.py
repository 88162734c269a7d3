"""A disk that is exported while a `with` block lasts, for threads."""

import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

from cloudmanager.client import calls
from cloudmanager.client import claim as claiming
from cloudmanager.client.calls import ClaimRequest
from cloudmanager.client.claim import ANSWER_SECONDS, Claim
from cloudmanager.client.connection import ServiceConnection
from cloudmanager.client.errors import ClientError, ExportLost
from cloudmanager.client.kept_disk import KeptDisk, Terms
from cloudmanager.client.model import Export
from cloudmanager.client.signals import MainThreadInterrupt, unwinding_on_sigterm


class ExportedDisk(KeptDisk):
    """Entering asks for the export and waits until it is ready; a thread renews it; leaving releases it.

    Entering raises ServiceError, NotReadyInTime, Unreachable. Leaving raises ExportLost if the export did not last
    until then; what the block itself raised is its cause.
    """

    def __init__(self, connection: ServiceConnection, wanted: ClaimRequest, terms: Terms) -> None:
        super().__init__(connection.service, wanted, terms)
        self._connection = connection
        self._undo = ExitStack()
        self._interrupt: MainThreadInterrupt | None = None

    def __enter__(self) -> Self:
        self._interrupt = MainThreadInterrupt() if self._terms.interrupt else None
        with ExitStack() as undo:
            if self._terms.release_on_sigterm:
                undo.enter_context(unwinding_on_sigterm())
            undo.enter_context(self._connection)
            claim = self._ask()
            self._begin(claim)
            keeper = _Keeper(self._connection, claim, self._on_loss)
            undo.push(lambda _kind, error, _trace: self._give_back(claim, keeper, error))
            keeper.start()
            self._set_ready(self._await(claim))
            self._undo = undo.pop_all()
        if self._interrupt is not None:
            self._interrupt.arm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_ours = self._interrupt is not None and self._interrupt.disarm(error)
        self._undo.__exit__(kind, error, trace)
        cause = None if is_ours else error
        if lost := self._loss_to_raise(cause):
            raise lost from cause

    def _ask(self) -> Claim:
        terms = self._terms
        takes_over = bool(self._wanted.key)
        wanted = self._wanted if takes_over else replace(self._wanted, key=calls.new_key())
        begin = claiming.take_over if takes_over else claiming.begin
        try:
            return self._connection.run(begin(wanted, terms.retry_seconds, terms.look_seconds))
        except Exception:
            raise
        except BaseException:  # Ctrl-C while nobody knows whether the service has made it
            with suppress(ClientError):
                self._connection.run(claiming.disown(wanted))
            raise

    def _await(self, claim: Claim) -> Export:
        terms = self._terms
        waiting = claiming.until_ready(claim.export, terms.retry_seconds, terms.ready_seconds, terms.on_progress)
        return self._connection.run(waiting)

    def _give_back(self, claim: Claim, keeper: "_Keeper", error: BaseException | None) -> None:
        if not self._is_mine():
            return
        look = error is None or isinstance(error, Exception)
        keeper.stop()
        self._end(self._connection.run(claiming.give_back(claim, self._terms.retry_seconds, look=look)))
        keeper.join(ANSWER_SECONDS)

    def _on_loss(self, lost: ExportLost) -> None:
        """In the keeper's thread."""
        if self._report_lost(lost) and self._interrupt is not None:
            self._interrupt.fire()


class _Stopped(Exception):
    """The keeper is not needed any more."""


class _Keeper(threading.Thread):
    """Keeps a claim. A daemon: it does not hold up the end of the interpreter, which releases the export."""

    def __init__(self, connection: ServiceConnection, claim: Claim, on_loss: Callable[[ExportLost], object]) -> None:
        super().__init__(name=f"keep-{claim.export.id}", daemon=True)
        self._connection = connection
        self._claim = claim
        self._on_loss = on_loss
        self._stopping = threading.Event()

    def run(self) -> None:
        with suppress(_Stopped):
            lost = self._connection.run(claiming.keep(self._claim), self._pause)
            if not self._stopping.is_set():
                self._on_loss(lost)

    def stop(self) -> None:
        self._stopping.set()

    def _pause(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise _Stopped
