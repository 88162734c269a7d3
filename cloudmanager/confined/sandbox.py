"""What a program may see of this machine: next to nothing, or everything."""

import fcntl
import os
import shutil
import stat
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from cloudmanager.confined import filter as system_calls
from cloudmanager.confined import mounts
from cloudmanager.confined.errors import Unconfinable
from cloudmanager.linux.block import is_read_only

INFO_FD, GATE_FD, FILTER_FD = 4, 5, 6
"""Descriptors of a program's launcher. 3 is a listener's, as socket activation has it."""
_FIRST_KEPT = 16
"""The numbers below are those that a process is given its descriptors under."""
_LIBRARIES = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_AWAY = "/dev"
"""Where a program starts that changes to the root directory when it has opened everything."""


def moved_above_reserved(descriptor: int) -> int:
    """The same file under a number that is not one of those that a process is given."""
    if descriptor >= _FIRST_KEPT:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_KEPT)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class VisibleFile:
    """An open file, directory or block device, under a name in the sandbox."""

    fd: int
    target: str
    title: str
    is_writable: bool
    status: os.stat_result

    @property
    def is_device(self) -> bool:
        return stat.S_ISBLK(self.status.st_mode)

    @property
    def own_path(self) -> str:
        """Opens the very same file from a process that has the descriptor under its number."""
        return f"/proc/self/fd/{self.fd}"


class Confinement(ABC):
    """How one program is started. Each `show` makes something visible and returns its name in the sandbox.

    It has duplicates of the descriptors, until it is closed.
    """

    has_launcher: ClassVar[bool]
    """The child is not the program: it makes it, and reports its pid."""

    def __init__(self, *, is_held: bool) -> None:
        self.is_held = is_held
        """It stands still when it has opened everything (`hold`)."""
        self.aliases: dict[str, str] = {}
        """What exposures are called in there → what a person calls them."""
        self.inherited: list[int] = []
        """Descriptors that the program has under the same numbers: they say nothing of what it has opened."""
        self.environment: dict[str, str] = {}
        """Variables that the program finds, besides those that every program finds."""
        self._descriptors = ExitStack()
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """After the start, whether it came to be or not."""
        self._descriptors.close()

    def show(self, fd: int, title: str, *, is_writable: bool = False, name: str | None = None) -> str:
        """A regular file, a directory or a block device, which is open for what the program may do with it.

        `title` is what a person calls it. Raises Unconfinable where it cannot be shown safely.
        """
        target = f"/{name or self._count}"
        self._count += 1
        path = self._show(VisibleFile(self._duplicate(fd), target, title, is_writable, os.fstat(fd)))
        self.aliases[path] = title
        return path

    def keep(self, fd: int) -> None:
        """The program keeps it open: a claim on a device that lasts as long as the program."""
        self.inherited.append(self._duplicate(fd))

    @abstractmethod
    def wrap(self, command: Sequence[str], program: str) -> list[str]:
        """The command as it is to be run, which in the end runs the program. Raises Unconfinable."""

    @abstractmethod
    def filter(self) -> bytes | None:
        """The filter of system calls that the launcher is given. Raises Unconfinable."""

    @contextmanager
    def exposures(self) -> Iterator[list[mounts.Tree | mounts.DeviceNode]]:
        """What the spawner has to put where `wrap` says that it is. Raises Unconfinable."""
        yield []

    @property
    def passed(self) -> list[int]:
        """Descriptors that the child gets under their own numbers."""
        return self.inherited

    @property
    def may_be_raced(self) -> bool:
        """bubblewrap looks up the path of a descriptor, and refuses what is another file by then."""
        return False

    @abstractmethod
    def _show(self, shown: VisibleFile) -> str: ...

    def _duplicate(self, fd: int) -> int:
        duplicate = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_KEPT)
        self._descriptors.callback(os.close, duplicate)
        return duplicate


class Bare(Confinement):
    """No sandbox: the program opens the very files, by the descriptors that it inherits."""

    has_launcher = False

    def wrap(self, command: Sequence[str], program: str) -> list[str]:  # noqa: ARG002 - all of the machine is there
        # The shell waits until it is known who watches over the start.
        lines = f"read -r go <&{GATE_FD} || exit 1; exec {GATE_FD}<&-; LISTEN_PID=$$; LISTEN_FDS=1; "
        return ["/bin/sh", "-c", lines + 'export LISTEN_PID LISTEN_FDS; exec "$@"', "sh", *command]

    def filter(self) -> bytes | None:
        return None

    def _show(self, shown: VisibleFile) -> str:
        self.inherited.append(shown.fd)
        return shown.own_path


class Bubblewrap(Confinement):
    """Own process, network, mount, IPC and UTS namespaces, no capabilities, few system calls, and no files but those
    that are shown and /usr.
    """

    has_launcher = True

    def __init__(self, *, is_held: bool) -> None:
        super().__init__(is_held=is_held)
        self._mounts: list[str] = []
        self._bound: list[int] = []
        self._needs_proc = False
        self._writable: list[VisibleFile] = []
        self._unguarded: list[VisibleFile] = []
        """Read-only devices that only the filter keeps from being opened for writing."""

    def wrap(self, command: Sequence[str], program: str) -> list[str]:
        # The program becomes process 1, so that bubblewrap leaves no process between, and its pid is the one reported.
        return [
            *(executable("bwrap", "bubblewrap"), *self._namespaces(), "--as-pid-1", "--clearenv"),
            *("--setenv", "LISTEN_PID", "1", "--setenv", "LISTEN_FDS", "1"),
            *(word for variable in self.environment.items() for word in ("--setenv", *variable)),
            *(*system_mounts(program), "--dev-bind", self._null_device, "/dev/null"),
            *(*(["--proc", "/proc"] if self._needs_proc else []), *self._mounts, "--chdir", _AWAY),
            *("--info-fd", str(INFO_FD), "--block-fd", str(GATE_FD), "--seccomp", str(FILTER_FD), "--", *command),
        ]

    def filter(self) -> bytes | None:
        unguarded = self._unguarded
        if unguarded and self._writable:
            raise Unconfinable(
                f"{unguarded[0].title} is read-only here, but {self._writable[0].title} is not, and nothing would keep "
                "a server that may write the one from writing the other. Run the service as root, with CAP_MKNOD, "
                "outside of a user namespace."
            )
        return system_calls.allow_list(is_held=self.is_held, opens_to_read=bool(unguarded))

    @property
    def passed(self) -> list[int]:
        return [*self.inherited, *self._bound]

    @property
    def may_be_raced(self) -> bool:
        return bool(self._bound)

    @property
    @abstractmethod
    def _null_device(self) -> str: ...

    @abstractmethod
    def _namespaces(self) -> list[str]: ...

    def _show(self, shown: VisibleFile) -> str:
        if shown.is_writable:
            self._writable.append(shown)
        if shown.is_device:
            self._show_device(shown)
        else:
            self._show_file(shown)
        return shown.target

    def _show_file(self, shown: VisibleFile) -> None:
        _require_binds_of_descriptors(executable("bwrap", "bubblewrap"))
        self._bound.append(shown.fd)
        self._mounts += ["--bind-fd" if shown.is_writable else "--ro-bind-fd", str(shown.fd), shown.target]

    def _show_device(self, shown: VisibleFile) -> None:
        """By its descriptor. A user who may open the machine's own node for writing may do so there too, but
        for the filter of system calls; that also keeps anyone from changing the node.
        """
        self.inherited.append(shown.fd)
        self._needs_proc = True
        self._mounts += ["--symlink", shown.own_path, shown.target]
        if not shown.is_writable and _may_be_written(shown):
            self._unguarded.append(shown)


class UserBubblewrap(Bubblewrap):
    """For an ordinary user, and for root without CAP_SYS_ADMIN: in a user namespace."""

    _null_device = os.devnull

    def _namespaces(self) -> list[str]:
        return ["--unshare-all"]


class PrivilegedBubblewrap(Bubblewrap):
    """As root it goes without a user namespace: in one, root cannot open the files of other users.

    The network namespace is the `Spawner`'s, an empty one that all programs share.
    """

    _null_device = os.devnull

    def __init__(self, abilities: mounts.Abilities, can_make_node: Callable[[int], bool], *, is_held: bool) -> None:
        super().__init__(is_held=is_held)
        self._abilities = abilities
        self._can_make_node = can_make_node
        self._exposed: list[tuple[VisibleFile, str]] = []
        self._guarded: list[VisibleFile] = []
        """Read-only devices that the mode of their nodes guards."""
        self._overrides = False
        if abilities.has_null_device:
            self._null_device = mounts.NULL_DEVICE

    @contextmanager
    def exposures(self) -> Iterator[list[mounts.Tree | mounts.DeviceNode]]:
        with ExitStack() as trees:
            yield [
                mounts.DeviceNode(path, shown.status.st_rdev, shown.is_writable)
                if shown.is_device
                else trees.enter_context(mounts.Tree.of(shown.fd, path, shown.title, is_writable=shown.is_writable))
                for shown, path in self._exposed
            ]

    def filter(self) -> bytes | None:
        if self._overrides:
            self._unguarded += self._guarded
            self._guarded = []
        return super().filter()

    def _show_file(self, shown: VisibleFile) -> None:
        self._overrides |= not _owner_may_open(shown)
        if self._abilities.has_trees:
            self._expose(shown, "--bind" if shown.is_writable else "--ro-bind")
        else:
            super()._show_file(shown)

    def _show_device(self, shown: VisibleFile) -> None:
        if not self._can_make_node(shown.status.st_rdev):
            super()._show_device(shown)
            return
        self._expose(shown, "--dev-bind")
        if not shown.is_writable:
            self._guarded.append(shown)

    def _expose(self, shown: VisibleFile, option: str) -> None:
        path = mounts.new_path()
        self._exposed.append((shown, path))
        self._mounts += [option, path, shown.target]

    def _namespaces(self) -> list[str]:
        spaces = ["--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
        # Not CAP_DAC_READ_SEARCH, which lets its holder open any file of a mounted file system by handle.
        capabilities = ["--cap-add", "CAP_DAC_OVERRIDE"] if self._overrides else []
        return [*spaces, "--cap-drop", "ALL", *capabilities]


def executable(name: str, package: str) -> str:
    """Raises Unconfinable, and names the package that has it."""
    path = _found(name, os.environ.get("PATH", os.defpath))
    if path is None:
        raise Unconfinable(f"{name} is not installed: install the package {package}.")
    return path


@lru_cache
def _found(name: str, path: str) -> str | None:
    return shutil.which(name, path=path)


@cache
def system_mounts(program: str) -> tuple[str, ...]:
    """Where programs and their libraries are, as bubblewrap's options."""
    options = ["--ro-bind", "/usr", "/usr", "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for path in map(Path, _LIBRARIES):
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    directory = str(Path(program).parent)
    if not directory.startswith(("/usr/", *_LIBRARIES)):
        options += ["--ro-bind", directory, directory]
    return tuple(options)


@lru_cache
def _require_binds_of_descriptors(bubblewrap: str) -> None:
    """By its own help: distributions have added it to older versions."""
    help_text = subprocess.run([bubblewrap, "--help"], capture_output=True, text=True, check=False).stdout
    if "--ro-bind-fd" not in help_text:
        raise Unconfinable(
            "This bubblewrap cannot show open files (--ro-bind-fd): install version 0.10 or an update of this "
            "distribution's, or run the service as root."
        )


def _may_be_written(shown: VisibleFile) -> bool:
    """By this user, if it were opened anew."""
    return not is_read_only(shown.fd) and os.access(shown.own_path, os.W_OK, effective_ids=True)


def _owner_may_open(shown: VisibleFile) -> bool:
    """Whether root without any capability may. Group rights count only where everybody has them."""
    wanted = 0o6 if shown.is_writable else 0o4
    mode = shown.status.st_mode
    granted = mode >> 6 if shown.status.st_uid == os.geteuid() else mode & mode >> 3
    return granted & wanted == wanted
