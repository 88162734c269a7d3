"""The end of a service that is to leave nothing behind: its exports closed, its disks detached, within a bound."""

import logging
import time
from collections.abc import Callable

from cloudmanager.core.attaching import Attachments
from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.reconciler import Reconciler
from cloudmanager.core.store import Store

LOOK_SECONDS = 0.1
log = logging.getLogger(__name__)


class WindDown:
    """Releases what this node serves, and leaves the rest to the reconciler."""

    def __init__(
        self,
        node: str,
        store: Store,
        attachments: Attachments,
        reconciler: Reconciler,
        on_change: Callable[[str], None],
    ) -> None:
        """`on_change` is called with the id of an export whose state has changed."""
        self._node = node
        self._store = store
        self._attachments = attachments
        self._reconciler = reconciler
        self._on_change = on_change

    def run(self, timeout: float) -> None:
        """Returns when nothing is left, or after `timeout` seconds; what is left then is logged."""
        self._attachments.stop_lingering()
        deadline = time.monotonic() + timeout
        while self._release() and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        for left in self._left():
            log.warning("left to the next start: %s", left)

    def _release(self) -> bool:
        """Again and again, for a claim that was under way. Whether anything is left."""
        try:
            for record in self._store.exports.claiming(self._node):
                if record.state.is_live and self._store.exports.start_closing(record.id, "the service ends"):
                    self._on_change(record.id)
            unfinished = self._store.active_disks(self._node)
        except CloudManagerError as error:
            log.warning("exports cannot be closed: %s", error.detail)
            return True
        for canonical_id in unfinished:
            self._reconciler.poke(canonical_id)
        return bool(unfinished)

    def _left(self) -> list[str]:
        try:
            exports = self._store.exports.claiming(self._node)
            attachments = [record for record in self._store.attachments.all() if record.node == self._node]
        except CloudManagerError as error:
            return [f"everything ({error.detail})"]
        return [
            *(f"export {record.id} of {record.disk.id} is {record.state}" for record in exports),
            *(f"{record.plan.disk.id} is {record.state}" for record in attachments),
        ]
