"""For workers: from "I need that disk" to its bytes, and back.

    from cloudmanager.client import CloudManager

    with CloudManager(url, token).export("prod:evidence-7") as disk:
        with disk.file() as file:
            examine(file.path)

`export` waits until the disk is ready, renews the export in the background and releases it at the end. A `disk` has
`.uri` and `.address` (NbdAddress), `.size_bytes`, `.open() .device() .file() .stub(path) .mount()`; all of them raise
ExportLost once the export is over, as `.check()` and the end of the block do. `.id .disk .access .export .expires_at
.lost` can always be asked. The keywords of `export` are in ExportOptions.

CloudManager(url=None, token=None, retry_seconds=60, certificates=None) has besides:

    claim(disk, access) wait(id) get(id) renew(id) release(id)     an export that you look after yourself
    exports() disks(text) attachments() providers() nodes() audit()     iterate over pages
    disk(id) health()
    force_release(id) pause(provider) resume(provider) drain(node) undrain(node)     an operator's orders

AsyncCloudManager is the same for coroutines. Errors are in `cloudmanager.client.errors`, all of them ClientError.
CLOUDMANAGER_URL, CLOUDMANAGER_TOKEN, CLOUDMANAGER_HOLDER and CLOUDMANAGER_CERTIFICATES stand in for what is not given.

Names are loaded when they are first used. Nothing of the server is imported.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudmanager.client import errors as errors
    from cloudmanager.client.address import Credentials as Credentials
    from cloudmanager.client.address import NbdAddress as NbdAddress
    from cloudmanager.client.async_cloud_manager import AsyncCloudManager as AsyncCloudManager
    from cloudmanager.client.async_exported_disk import AsyncExportedDisk as AsyncExportedDisk
    from cloudmanager.client.cloud_manager import CloudManager as CloudManager
    from cloudmanager.client.errors import ClientError as ClientError
    from cloudmanager.client.errors import ExportLost as ExportLost
    from cloudmanager.client.exported_disk import ExportedDisk as ExportedDisk
    from cloudmanager.client.kept_disk import ExportOptions as ExportOptions
    from cloudmanager.client.model import Access as Access
    from cloudmanager.client.model import Attachment as Attachment
    from cloudmanager.client.model import AuditEvent as AuditEvent
    from cloudmanager.client.model import Disk as Disk
    from cloudmanager.client.model import Export as Export
    from cloudmanager.client.model import ExportState as ExportState
    from cloudmanager.client.model import Health as Health
    from cloudmanager.client.model import Node as Node
    from cloudmanager.client.model import Problem as Problem
    from cloudmanager.client.model import Provider as Provider

_HOMES = {
    "address": ("Credentials", "NbdAddress"),
    "async_cloud_manager": ("AsyncCloudManager",),
    "async_exported_disk": ("AsyncExportedDisk",),
    "cloud_manager": ("CloudManager",),
    "errors": ("ClientError", "ExportLost"),
    "exported_disk": ("ExportedDisk",),
    "model": (
        *("Access", "Attachment", "AuditEvent", "Disk", "Export", "ExportState", "Health", "Node", "Problem"),
        "Provider",
    ),
    "kept_disk": ("ExportOptions",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["errors", *sorted(_HOME_OF)]  # noqa: PLE0604 - made from the table above


def __getattr__(name: str) -> object:
    if name == "errors":
        return importlib.import_module("cloudmanager.client.errors")
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"cloudmanager.client.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
