"""How a privileged spawner shows files to its programs: mounts of open files, in a mount namespace of its own.

A path is looked up again when it is used, and may lead elsewhere by then. A mount that is made of a descriptor
(open_tree(2), Linux 5.2) is the open file; in a namespace that only the spawner's thread is in, no process can
exchange it on its way to bubblewrap, and nothing of it shows on the machine.
"""

import itertools
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cloudmanager.confined import kernel
from cloudmanager.confined.errors import Unconfinable
from cloudmanager.confined.kernel import MS_NOEXEC, MS_NOSUID, MS_REC, MS_SLAVE
from cloudmanager.linux.mounts import mounts

DIRECTORY = "/sys"
"""A directory that every machine has, and nothing here needs: a tmpfs of the namespace's own covers it."""
NULL_DEVICE = f"{DIRECTORY}/null"
_NULL = os.makedev(1, 3)
_NOBODY = 65534
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/dev")
"""With what is mounted below them."""
_WORK = ("/etc", "/tmp")  # noqa: S108 - bubblewrap builds its sandboxes there
_numbers = itertools.count()


@dataclass(frozen=True)
class Abilities:
    """What a namespace turned out to be able to do."""

    has_trees: bool
    """Mounts can be made of open files."""
    has_null_device: bool
    """Its /dev/null is one of its own."""


@dataclass(frozen=True)
class Tree:
    """An open file or directory, as a mount that is nowhere yet. Made in the namespace that the descriptor is from."""

    path: str
    """Where it will be."""
    title: str
    fd: int
    is_directory: bool

    @classmethod
    @contextmanager
    def of(cls, fd: int, path: str, title: str, *, is_writable: bool) -> Iterator["Tree"]:
        """Raises Unconfinable."""
        try:
            tree = kernel.open_tree(fd)
        except OSError as error:
            raise _not_mountable(title, "its file system is not mounted here") from error
        try:
            barred = kernel.NO_SETUID | kernel.NO_DEVICE | kernel.NO_EXECUTION
            with suppress(OSError):  # before Linux 5.12: then bubblewrap does all of it but the last
                kernel.set_mount_attributes(tree, barred | (0 if is_writable else kernel.READ_ONLY))
            yield cls(path, title, tree, stat.S_ISDIR(os.fstat(fd).st_mode))
        finally:
            os.close(tree)

    def expose(self) -> None:
        """Raises Unconfinable, OSError."""
        if self.is_directory:
            os.mkdir(self.path, 0o700)  # noqa: PTH102 - this thread's paths are text, as the kernel takes them
        else:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            kernel.move_mount(self.fd, self.path)
        except FileNotFoundError as error:
            raise _not_mountable(self.title, "it was deleted") from error

    def remove(self) -> None:
        with suppress(OSError):  # it was never exposed
            kernel.unmount(self.path)
        with suppress(OSError):
            (os.rmdir if self.is_directory else os.unlink)(self.path)


@dataclass(frozen=True)
class DeviceNode:
    """A node of our own for a device, which a program may open as the mode says, and not change.

    A read-only mount does not keep anyone from writing to a device; the mode of the node does: it gives the right to
    the program's group, and belongs to a user that the program is not.
    """

    path: str
    device: int
    is_writable: bool

    def expose(self) -> None:
        _make_node(self.path, stat.S_IFBLK, self.device, 0o060 if self.is_writable else 0o040)

    def remove(self) -> None:
        with suppress(OSError):
            os.unlink(self.path)  # noqa: PTH108


def new_path() -> str:
    return f"{DIRECTORY}/{next(_numbers)}"


def set_up() -> Abilities:
    """Gives the calling thread a namespace of its own. Raises OSError."""
    has_trees = _has_trees()  # that counts where the descriptors are from
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount(None, "/", MS_REC | MS_SLAVE)
    _leave_others()
    kernel.mount("tmpfs", DIRECTORY, MS_NOSUID | MS_NOEXEC, "mode=0700,size=16m")
    try:
        _make_node(NULL_DEVICE, stat.S_IFCHR, _NULL, 0o666)
    except PermissionError:
        return Abilities(has_trees, has_null_device=False)
    return Abilities(has_trees, has_null_device=True)


def _has_trees() -> bool:
    """Not before Linux 5.2, in a user namespace, nor where a container's own filter forbids it."""
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(kernel.open_tree(root))
    except OSError:
        return False
    finally:
        os.close(root)
    return True


def can_make_node(device: int) -> bool:
    """Not in a user namespace, nor without CAP_MKNOD, nor where a cgroup forbids that device."""
    node = DeviceNode(new_path(), device, is_writable=False)
    try:
        node.expose()
    except PermissionError:
        return False
    finally:
        node.remove()
    return True


def expose(exposures: Sequence[Tree | DeviceNode]) -> None:
    """All of them, or none. Raises Unconfinable, OSError."""
    try:
        for each in exposures:
            each.expose()
    except BaseException:
        remove(exposures)
        raise


def remove(exposures: Sequence[Tree | DeviceNode]) -> None:
    for each in exposures:
        each.remove()


def _not_mountable(title: str, reason: str) -> Unconfinable:
    return Unconfinable(f"{title} cannot be shown to a sandbox: {reason}.", is_passing=True)


def _make_node(path: str, kind: int, device: int, mode: int) -> None:
    try:
        os.mknod(path, kind, device)
        os.chown(path, _NOBODY, os.getegid())
        os.chmod(path, mode)  # noqa: PTH101
    except OSError:
        with suppress(OSError):
            os.unlink(path)  # noqa: PTH108
        raise


def _leave_others() -> None:
    """Unmounts here what no program needs, so that this namespace keeps no file system from being unmounted."""
    needed = [Path(path) for path in (*_SYSTEM, *_WORK, *os.get_exec_path(), sys.prefix, sys.base_prefix, __file__)]
    system = [Path(path) for path in _SYSTEM]
    for point in (Path(mount.target) for mount in mounts("thread-self")):  # with each goes what is mounted below it
        is_needed = any(point == path or point in path.parents for path in needed)
        if not is_needed and not any(path in point.parents for path in system):
            with suppress(OSError):
                kernel.unmount(str(point))
