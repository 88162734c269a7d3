"""Exports that are given back also when the `with` block that has them never ends.

When the interpreter ends first, as with a thread that was abandoned, atexit does it. When the process is killed,
`cloudmanager cleanup` does: what it needs to know is in a record of this machine.
"""

import atexit
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloudmanager.client import calls
from cloudmanager.client.connection import Connection
from cloudmanager.client.errors import ClientError
from cloudmanager.client.exchange import patiently
from cloudmanager.client.model import Export
from cloudmanager.client.service import Service

if TYPE_CHECKING:
    from cloudmanager.client.access_methods.record import Record

ANSWER_SECONDS = 5.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Held:
    service: Service
    record: "Record | None"
    pid: int
    """A forked process inherits this, but not the claim."""


_held: dict[str, _Held] = {}


def hold(service: Service, export: Export) -> None:
    """Notes that this process has to give the export back."""
    _held[export.id] = _Held(service, _recorded(service, export), os.getpid())


def let_go(export_id: str, *, is_over: bool) -> None:
    """It was given back; what could not be is left to `cleanup`."""
    held = _held.pop(export_id, None)
    if held is not None and held.record is not None:
        held.record.forget() if is_over else held.record.leave()


def _recorded(service: Service, export: Export) -> "Record | None":
    """None where this machine has no place for it: then the export ends by itself."""
    from cloudmanager.client.access_methods.record import Record  # noqa: PLC0415 - while the service makes the export ready
    from cloudmanager.client.access_methods.steps import HeldExport  # noqa: PLC0415 - as above

    try:
        record = Record.begin(of_export=True)
        record.note(HeldExport(service.url, export.id, export.disk))
    except (ClientError, OSError) as error:
        log.debug("export %s is not recorded on this machine: %s", export.id, error)
        return None
    return record


@atexit.register
def _give_back_everything() -> None:
    for export_id, held in list(_held.items()):
        if held.pid == os.getpid():
            let_go(export_id, is_over=_give_back(export_id, held.service))


def _give_back(export_id: str, service: Service) -> bool:
    request = calls.release_request(export_id, ANSWER_SECONDS)
    try:
        Connection(service).run(patiently(request, 0))
    except ClientError as error:
        log.warning("export %s was not released; it ends by itself: %s", export_id, error.detail)
        return False
    return True
