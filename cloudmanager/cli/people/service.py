"""The service that a person asks."""

import sys
from importlib import import_module

from cloudmanager.client import CloudManager

_PATIENCE_SECONDS = 3


def _import_httpx() -> None:
    """Without its own command line, which brings click, rich and pygments: as much time as all the rest of it.

    httpx goes without when it cannot import that part.
    """
    if "httpx" not in sys.modules:
        sys.modules["httpx._main"] = None  # type: ignore[assignment] # what import takes for "it is not there"
        import_module("httpx")
        del sys.modules["httpx._main"]


def service() -> CloudManager:
    """For one answer: a person would rather hear soon that there is none."""
    _import_httpx()
    return CloudManager(patience_seconds=_PATIENCE_SECONDS)


def lasting_service() -> CloudManager:
    """For as long as a disk is used: once it has answered, it may be away for a while. Raises Unreachable."""
    _import_httpx()
    manager = CloudManager()
    manager.health()
    return manager
