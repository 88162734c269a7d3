"""From what a caller names as the target to a target."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit, urlunsplit

from cloudmanager.client.address import NbdAddress
from cloudmanager.client.deploy import local_target
from cloudmanager.client.deploy.local_target import LocalTarget
from cloudmanager.client.deploy.nbd_ends import NbdTarget
from cloudmanager.transfer.libnbd import Patience

TargetLike: TypeAlias = "Path | str | NbdAddress"
"""A block device, a file, which is made if there is none, or an NBD address."""


@contextmanager
def opened(target: TargetLike, patience: Patience, target_id: str = "") -> Iterator[NbdTarget | LocalTarget]:
    """Raises TargetError, ConnectionLost, MissingTool."""
    if isinstance(target, NbdAddress):
        with NbdTarget.opened(target, patience, target_id or _without_query(target.uri)) as remote:
            yield remote
        return
    with local_target.opened(Path(target)) as local:
        yield local


def identity(target: TargetLike, target_id: str) -> str:
    """What a journal knows it by."""
    if target_id:
        return target_id
    return target.uri if isinstance(target, NbdAddress) else str(Path(target).resolve())


def _without_query(uri: str) -> str:
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(query="")) if parts.netloc else uri
