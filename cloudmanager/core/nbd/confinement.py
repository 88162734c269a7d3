"""What a server may see of this machine: next to nothing, or everything."""

import os
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import ClassVar

from cloudmanager.core.errors import ServerFailed
from cloudmanager.core.nbd.images import Image

_CAP_SYS_ADMIN = 21
_NOBODY = 65534
_LIBRARIES = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")


class Confinement(ABC):
    """How one server is started. Each `show` method makes something visible and tells its name in there."""

    opens_descriptors: ClassVar[bool]
    """The server inherits every image's descriptor and opens the file through it."""
    has_launcher: ClassVar[bool]
    """The child is not the server: it makes it, and reports its pid."""
    setting: ClassVar[Sequence[str]]
    """Lines of shell for the server's process to run first."""

    def __init__(self) -> None:
        self.aliases: dict[str, str] = {}
        """What things are called in there → what a person calls them."""
        self.inherited: list[int] = []
        """Descriptors that the server keeps open, under the same numbers."""

    def show_image(self, image: Image) -> str:
        if self.opens_descriptors or image.is_exclusive:
            self.inherited.append(image.fd)
        name = self._image_name(image)
        self.aliases[name] = image.device.path
        return name

    @abstractmethod
    def show(self, path: Path, *, writable: bool) -> str:
        """A file or directory of the export's own."""

    @abstractmethod
    def wrap(self, command: list[str], info_fd: int) -> list[str]:
        """The command as it is to be run. A launcher reports on `info_fd`."""

    @abstractmethod
    def _image_name(self, image: Image) -> str: ...


class Bare(Confinement):
    """No sandbox: the server opens the descriptors that were checked."""

    opens_descriptors = True
    has_launcher = False
    setting = ("LISTEN_PID=$$ LISTEN_FDS=1", "export LISTEN_PID LISTEN_FDS")

    def show(self, path: Path, *, writable: bool) -> str:  # noqa: ARG002 - the file's own mode decides
        return str(path)

    def wrap(self, command: list[str], info_fd: int) -> list[str]:  # noqa: ARG002 - nobody reports
        return command

    def _image_name(self, image: Image) -> str:
        return image.own_path


@dataclass(frozen=True)
class _Mount:
    option: str
    source: str
    target: str


class Bubblewrap(Confinement):
    """Own process, network, mount, IPC and UTS namespaces, no capabilities, and no files but the disk's and /usr.

    As root it goes without a user namespace: in one, root cannot open the files of other users. Then the network
    namespace is the `Spawner`'s, an empty one that all servers share.
    """

    opens_descriptors = False
    has_launcher = True
    setting = ()

    def __init__(self, directory: Path) -> None:
        """`directory` is the export's own; device nodes are made there."""
        super().__init__()
        self._directory = directory
        self._mounts: list[_Mount] = []
        self._needs_override = False

    def show(self, path: Path, *, writable: bool) -> str:
        name = self._mount("--bind" if writable else "--ro-bind", str(path), f"/{path.name}")
        self.aliases[name] = str(path)
        return name

    def wrap(self, command: list[str], info_fd: int) -> list[str]:
        mounts = [word for mount in self._mounts for word in (mount.option, mount.source, mount.target)]
        # qemu-nbd becomes process 1, so that bubblewrap leaves no process between, and its pid is the one reported.
        return [
            *(executable("bwrap", "bubblewrap"), *self._namespaces(), "--as-pid-1", "--clearenv"),
            *("--setenv", "LISTEN_PID", "1", "--setenv", "LISTEN_FDS", "1"),
            *(*system_mounts(), "--dev-bind", "/dev/null", "/dev/null", *mounts),
            *("--chdir", "/", "--info-fd", str(info_fd), "--", *command),
        ]

    def _image_name(self, image: Image) -> str:
        target = f"/image-{len(self._mounts)}"
        if image.device.is_block:
            return self._mount("--dev-bind", self._device_node(image, target), target)
        self._needs_override |= not _owner_may_open(image)
        return self._mount("--bind" if image.is_writable else "--ro-bind", image.real_path, target)

    def _mount(self, option: str, source: str, target: str) -> str:
        self._mounts.append(_Mount(option, source, target))
        return target

    def _device_node(self, image: Image, name: str) -> str:
        """A node of our own for the very device that was checked, which the server may open, but not change.

        A read-only mount does not keep anyone from writing to a device; the mode of the node does: it gives the right
        to the server's group, and belongs to a user that the server is not. Where no node can be made or used, the
        machine's own one is shown.
        """
        node = self._directory / name.strip("/")
        if os.statvfs(self._directory).f_flag & os.ST_NODEV:
            return image.real_path
        try:
            node.unlink(missing_ok=True)
            os.mknod(node, stat.S_IFBLK, image.status.st_rdev)
            os.chown(node, _NOBODY, os.getegid())
            node.chmod(0o060 if image.is_writable else 0o040)
        except PermissionError:
            return image.real_path
        return str(node)

    def _namespaces(self) -> list[str]:
        if not is_privileged():
            return ["--unshare-all"]
        spaces = ["--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
        # Not CAP_DAC_READ_SEARCH, which lets its holder open any file of a mounted file system by handle.
        capabilities = ["--cap-add", "CAP_DAC_OVERRIDE"] if self._needs_override else []
        return [*spaces, "--cap-drop", "ALL", *capabilities]


def executable(name: str, package: str) -> str:
    """Raises ServerFailed, and names the package that has it."""
    path = _found(name, os.environ.get("PATH", os.defpath))
    if path is None:
        raise ServerFailed(f"{name} is not installed: install the package {package}, then `cloudmanager doctor`.")
    return path


@lru_cache
def _found(name: str, path: str) -> str | None:
    return shutil.which(name, path=path)


@cache
def system_mounts() -> tuple[str, ...]:
    """Where programs and their libraries are, as bubblewrap's options."""
    words = ["--ro-bind", "/usr", "/usr", "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for path in map(Path, _LIBRARIES):
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    directory = str(Path(executable("qemu-nbd", "qemu-utils")).parent)
    if not directory.startswith(("/usr/", *_LIBRARIES)):
        words += ["--ro-bind", directory, directory]
    return tuple(words)


@cache
def is_privileged() -> bool:
    """Root that may make namespaces; in many containers it may not."""
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    return os.geteuid() == 0 and bool(effective >> _CAP_SYS_ADMIN & 1)


def _owner_may_open(image: Image) -> bool:
    """Whether root without any capability may. Group rights count only where everybody has them."""
    wanted = 0o6 if image.is_writable else 0o4
    mode = image.status.st_mode
    granted = mode >> 6 if image.status.st_uid == os.geteuid() else mode & mode >> 3
    return granted & wanted == wanted
