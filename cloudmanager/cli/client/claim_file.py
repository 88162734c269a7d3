"""Keeps the key of a command's claim, so that the same command can take the claim over after a kill.

A claim outlives its process until its time is over. The key that it was made with is kept in a file, before the request
is sent, and a lock on the file tells whether its process still runs.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cloudmanager.client import CloudManager
from cloudmanager.client.calls import new_key
from cloudmanager.client.errors import ClientError, InvalidSetup
from cloudmanager.client.model import Access
from cloudmanager.linux.files import open_private, try_lock


@contextmanager
def kept_key(manager: CloudManager, disk: str, access: Access, holder: str) -> Iterator[str]:
    """For `export`: the key of such a command that was killed while its export lives, else a new one.

    Raises InvalidSetup when it cannot be kept.
    """
    with _locked(_path(disk, access, holder)) as descriptor:
        if descriptor is None:  # such a command runs: this one has a claim of its own
            yield new_key()
            return
        key = _earlier(descriptor)
        if not (key and _lives(manager, disk, access, holder, key)):
            key = new_key()
            _note(descriptor, key)
        yield key
        os.ftruncate(descriptor, 0)  # it was released


def _path(disk: str, access: Access, holder: str) -> Path:
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    what = json.dumps([os.environ.get("CLOUDMANAGER_URL", ""), disk, access.value, holder])
    return base / "cloudmanager" / "claims" / hashlib.sha256(what.encode()).hexdigest()[:32]


@contextmanager
def _locked(path: Path) -> Iterator[int | None]:
    """None: somebody else has it."""
    try:
        descriptor = open_private(path)
    except OSError as error:
        raise InvalidSetup(
            f"The claim cannot be kept in {path.parent}: {error.strerror}. Set XDG_STATE_HOME."
        ) from error
    try:
        is_ours = False
        with suppress(OSError):
            is_ours = try_lock(descriptor)
        yield descriptor if is_ours else None
    finally:
        os.close(descriptor)


def _earlier(descriptor: int) -> str:
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(os.pread(descriptor, 4096, 0))["key"])
    return ""


def _note(descriptor: int, key: str) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"key": key}).encode(), 0)
        os.fsync(descriptor)
    except OSError as error:
        raise InvalidSetup(f"The claim cannot be kept: {error.strerror}. Set XDG_STATE_HOME.") from error


def _lives(manager: CloudManager, disk: str, access: Access, holder: str, key: str) -> bool:
    """Whether the export that the key has made still does; one that it makes now does too."""
    try:
        return manager.claim(disk, access, holder=holder, idempotency_key=key).state.is_live
    except ClientError:
        return False  # what is wrong shows when it is asked for anew
