"""The state directory: the store, scratch overlays, and what running exports need."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cloudmanager.core.disklocks import DiskLocks
from cloudmanager.core.errors import ConfigurationError
from cloudmanager.core.model import Finding, Severity
from cloudmanager.core.private_directory import ancestor_flaws, flaws
from cloudmanager.core.settings import Settings
from cloudmanager.linux.mounts import mounts

SUBJECT = "state directory"
LOCKS = "locks"
CHOOSE_ANOTHER = "Set [server] state_dir to a directory that this user can write, or run as another user."
NETWORK_FILE_SYSTEMS = frozenset({"9p", "ceph", "cifs", "fuse.sshfs", "glusterfs", "nfs", "nfs4", "smb3", "virtiofs"})
"""Where SQLite's write-ahead log is not safe: https://www.sqlite.org/wal.html"""


def check_directories(settings: Settings) -> Iterator[Finding]:
    yield _check_locks(settings)
    state_dir = settings.server.state_dir.absolute()
    there = _nearest(state_dir)
    if obstacle := _obstacle(there):
        yield Finding(SUBJECT, Severity.PROBLEM, f"{state_dir}: {obstacle}", CHOOSE_ANOTHER)
        return
    yield from _check_privacy(state_dir, there)
    yield _check_space(there, settings.exports.scratch_limit_bytes)
    yield _check_file_system(there, uses_sqlite=not settings.store.url)
    yield _check_direct_io(there)


def _check_privacy(state_dir: Path, there: Path) -> Iterator[Finding]:
    """Checks the directory as the start of the service does, which then corrects the modes of its own files."""
    is_made = there == state_dir
    found = list(flaws(there, os.geteuid()) if is_made else ancestor_flaws(state_dir, there, os.geteuid()))
    for flaw in found:
        if flaw.mode is None:
            yield Finding(SUBJECT, Severity.PROBLEM, f"{flaw.path} {flaw.seen}", flaw.advice)
    if loose := [flaw for flaw in found if flaw.mode is not None]:
        seen = f"{loose[0].path} {loose[0].seen}" + (f", and {len(loose) - 1} more" if len(loose) > 1 else "")
        advice = "The service's next start closes it to others; see whether somebody has read or changed it."
        yield Finding(SUBJECT, Severity.WARNING, seen, advice)
    if not found:
        yield Finding(SUBJECT, Severity.OK, f"{state_dir}{'' if is_made else ' can be made'}")


def _check_locks(settings: Settings) -> Finding:
    """As the service would, which makes the directory."""
    path = settings.server.lock_dir
    try:
        DiskLocks.open(path, "doctor").close()
    except ConfigurationError as error:
        return Finding(
            LOCKS, Severity.PROBLEM, error.detail, "Every service of this machine has the same [server] lock_dir."
        )
    return Finding(LOCKS, Severity.OK, f"{path} can be written only by the services of this machine")


def _nearest(path: Path) -> Path:
    """The path, or the nearest parent that exists."""
    return next(candidate for candidate in (path, *path.parents) if os.path.lexists(candidate))


def _obstacle(directory: Path) -> str:
    if not directory.is_dir():
        return f"{directory} is not a directory"
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=directory):
            return ""
    except OSError as error:
        return f"{directory} cannot be written ({error.strerror})"


def _check_space(directory: Path, scratch_limit: int) -> Finding:
    free = shutil.disk_usage(directory).free
    seen = f"{_gib(free)} free"
    if free >= scratch_limit:
        return Finding("free space", Severity.OK, seen)
    return Finding(
        "free space",
        Severity.WARNING,
        f"{seen}, less than one full scratch export takes ({_gib(scratch_limit)})",
        "Make room, or lower [exports] scratch_limit_bytes.",
    )


def _gib(size: int) -> str:
    return f"{size / 1024**3:.1f} GiB"


def _check_file_system(directory: Path, uses_sqlite: bool) -> Finding:
    kind = _file_system(directory)
    if uses_sqlite and kind in NETWORK_FILE_SYSTEMS:
        return Finding(
            "file system",
            Severity.PROBLEM,
            f"{kind}: SQLite's write-ahead log is not safe there",
            "Set [server] state_dir to a local disk, or [store] url to a PostgreSQL database.",
        )
    return Finding("file system", Severity.OK, kind or "unknown")


def _file_system(directory: Path) -> str:
    """Its type, from the mount that has the directory's device number; empty if none has (a btrfs subvolume)."""
    device = directory.stat().st_dev
    return next((mount.type for mount in mounts() if mount.device == device), "")


def _check_direct_io(directory: Path) -> Finding:
    subject = "direct I/O"
    with tempfile.NamedTemporaryFile(prefix=".doctor-", dir=directory) as file:
        try:
            os.close(os.open(file.name, os.O_RDONLY | os.O_DIRECT))
        except OSError as error:
            return Finding(
                subject,
                Severity.WARNING,
                f"not on this file system ({error.strerror})",
                "Scratch overlays here go through the page cache. A disk file system (ext4, xfs) avoids that.",
            )
    return Finding(subject, Severity.OK, "works")
