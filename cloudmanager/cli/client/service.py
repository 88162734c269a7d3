"""The service that a command asks: the given URL, or else this machine's own service."""

import getpass
import os
import sys
from importlib import import_module

from cloudmanager.cli import configuration
from cloudmanager.client import CloudManager
from cloudmanager.client.service import URL_VARIABLE

_RETRY_SECONDS = 3


def _import_httpx() -> None:
    """Without its own command line, which brings click, rich and pygments: as much time as all the rest of it.

    httpx goes without when it cannot import that part.
    """
    if "httpx" not in sys.modules:
        sys.modules["httpx._main"] = None  # type: ignore[assignment] # what import takes for "it is not there"
        import_module("httpx")
        del sys.modules["httpx._main"]


def service() -> CloudManager:
    """A client for one request, which reports soon that no service answers."""
    _import_httpx()
    _choose()
    return CloudManager(retry_seconds=_RETRY_SECONDS)


def lasting_service() -> CloudManager:
    """For as long as a disk is used: once it has answered, it may be away for a while. Raises Unreachable."""
    _import_httpx()
    _choose()
    manager = CloudManager()
    manager.health()
    return manager


def _choose() -> None:
    """For this process and what it starts. Raises ConfigurationError."""
    if not os.environ.get(URL_VARIABLE) and (url := configuration.own_service()):
        os.environ[URL_VARIABLE] = url


HOLDER_VARIABLE = "CLOUDMANAGER_HOLDER"


def named(given: str | None = None) -> str:
    """`given`, $CLOUDMANAGER_HOLDER, or user and host: a command's process number would tell nobody whom to ask."""
    return given or os.environ.get(HOLDER_VARIABLE) or f"{_user()}@{os.uname().nodename}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container a user may have no name
        return str(os.getuid())
