"""Exports that nobody has given back when the interpreter ends, as in a thread that was abandoned: atexit does it."""

import atexit
import logging
import os
from dataclasses import dataclass

from cloudmanager.client import calls
from cloudmanager.client.connection import Connection
from cloudmanager.client.errors import ClientError
from cloudmanager.client.patience import patiently
from cloudmanager.client.service import Service

ANSWER_SECONDS = 5.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Held:
    service: Service
    pid: int
    """A forked process inherits the record, but not the claim."""


_held: dict[str, _Held] = {}


def hold(service: Service, export_id: str) -> None:
    """Notes that this process has to give the export back."""
    _held[export_id] = _Held(service, os.getpid())


def let_go(export_id: str) -> None:
    _held.pop(export_id, None)


@atexit.register
def _give_back_everything() -> None:
    while _held:
        export_id, held = _held.popitem()
        if held.pid == os.getpid():
            _give_back(export_id, held.service)


def _give_back(export_id: str, service: Service) -> None:
    request = calls.release_request(export_id, ANSWER_SECONDS)
    try:
        Connection(service).run(patiently(request, 0))
    except ClientError as error:
        log.warning("export %s was not released; it ends by itself: %s", export_id, error.detail)
