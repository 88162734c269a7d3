"""This machine's own disks: image files below configured directories, and block devices.

Nothing here is ever attached or detached: the disks are here already, so every attachment is foreign.
"""

from collections.abc import Iterable

from cloudmanager.core.hookspecs import hookimpl
from cloudmanager.providers.local.provider import LocalProvider

__all__ = ["LocalProvider", "register_providers"]


@hookimpl
def register_providers() -> Iterable[type]:
    return [LocalProvider]
