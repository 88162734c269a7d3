"""cloudmanager: any disk, in any cloud, as one NBD address.

This is what a plugin author imports. Names are loaded when they are first used, so that importing the client loads
nothing of the server.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudmanager.core import errors as errors
    from cloudmanager.core.hookspecs import ExportRequest as ExportRequest
    from cloudmanager.core.hookspecs import hookimpl as hookimpl
    from cloudmanager.core.incarnation import refuse_replaced as refuse_replaced
    from cloudmanager.core.model import Access as Access
    from cloudmanager.core.model import Attachment as Attachment
    from cloudmanager.core.model import AttachPlan as AttachPlan
    from cloudmanager.core.model import Device as Device
    from cloudmanager.core.model import Disk as Disk
    from cloudmanager.core.model import DiskId as DiskId
    from cloudmanager.core.model import FileIdentity as FileIdentity
    from cloudmanager.core.model import Finding as Finding
    from cloudmanager.core.model import Node as Node
    from cloudmanager.core.model import NotAttached as NotAttached
    from cloudmanager.core.model import Page as Page
    from cloudmanager.core.model import Query as Query
    from cloudmanager.core.model import Severity as Severity
    from cloudmanager.core.model import Snapshot as Snapshot

__version__ = "0.2.0"
"""The one place that has it: packages, the command line and the API read it here."""

_HOMES = {
    "cloudmanager.core.hookspecs": ("ExportRequest", "hookimpl"),
    "cloudmanager.core.incarnation": ("refuse_replaced",),
    "cloudmanager.core.model": (
        *("Access", "AttachPlan", "Attachment", "Device", "Disk", "DiskId", "FileIdentity", "Finding"),
        *("Node", "NotAttached", "Page", "Query", "Severity", "Snapshot"),
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["errors", *sorted(_HOME_OF)]  # noqa: PLE0604 - made from the table above


def __getattr__(name: str) -> object:
    if name == "errors":
        return importlib.import_module("cloudmanager.core.errors")
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
