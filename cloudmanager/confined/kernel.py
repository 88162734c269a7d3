"""System calls that Python has no function for, and this process's capabilities. Each raises OSError.

The numbers of system calls since Linux 5.0 are the same on every architecture.
"""

import ctypes
import os
from pathlib import Path

CAP_SYS_ADMIN = 21
CLONE_FS = 0x200
CLONE_NEWNS = 0x20000
CLONE_NEWNET = 0x40000000
"""What a thread can have for itself after unshare(2)."""

MS_REC, MS_SLAVE, MS_PRIVATE = 0x4000, 0x80000, 0x40000
MS_NOSUID, MS_NOEXEC = 0x2, 0x8
_MNT_DETACH = 2

READ_ONLY, NO_SETUID, NO_DEVICE, NO_EXECUTION = 0x1, 0x2, 0x4, 0x8
"""Attributes of a mount (mount_setattr(2))."""

PTRACE_CONT, PTRACE_DETACH = 7, 17
PTRACE_SEIZE = 0x4206
PTRACE_O_TRACESECCOMP, PTRACE_O_EXITKILL = 0x80, 0x100000
PTRACE_EVENT_SECCOMP = 7
WAIT_FOR_THREADS_TOO = 0x40000000
"""__WALL."""

_OPEN_TREE, _MOVE_MOUNT, _CLOSE_RANGE, _PIDFD_GETFD, _MOUNT_SETATTR = 428, 429, 436, 438, 442
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_CLOSE_RANGE_CLOEXEC = 4
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_SECCOMP_MODE_FILTER = 2
_INSTRUCTION_BYTES = 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long
_libc.syscall.restype = ctypes.c_long
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)


class _MountAttributes(ctypes.Structure):
    """struct mount_attr."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns_fd"))


class _FilterProgram(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def effective_capabilities() -> int:
    """Of this process: a bit for each, as linux/capability.h numbers them."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)


def unshare(flags: int) -> None:
    """Of the calling thread."""
    _checked(_libc.unshare(flags))


def mount(kind: str | None, target: str, flags: int, options: str | None = None) -> None:
    name = None if kind is None else kind.encode()
    _checked(_libc.mount(name, os.fsencode(target), name, flags, None if options is None else options.encode()))


def unmount(target: str) -> None:
    """Whether it is used or not."""
    _checked(_libc.umount2(os.fsencode(target), _MNT_DETACH))


def open_tree(fd: int) -> int:
    """A mount of the open file or directory itself, which is nowhere yet.

    The descriptor must come from the mount namespace of the calling thread.
    """
    flags = _AT_EMPTY_PATH | _OPEN_TREE_CLONE | os.O_CLOEXEC
    return _checked(_libc.syscall(_OPEN_TREE, fd, b"", ctypes.c_uint(flags)))


def move_mount(tree: int, target: str) -> None:
    """Puts what `open_tree` has made into the mount namespace of the calling thread."""
    _checked(_libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH))


def set_mount_attributes(tree: int, attributes: int) -> None:
    """Also parts it from other mounts of the same file system."""
    argument = _MountAttributes(attributes, 0, MS_PRIVATE, 0)
    size = ctypes.c_size_t(ctypes.sizeof(argument))
    _checked(_libc.syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(argument), size))


def close_on_exec_from(first: int) -> None:
    """Nothing from this descriptor on is inherited. Without effect before Linux 5.11."""
    _libc.syscall(_CLOSE_RANGE, first, ctypes.c_uint(-1), _CLOSE_RANGE_CLOEXEC)


def pidfd_getfd(pidfd: int, number: int) -> int:
    return _checked(_libc.syscall(_PIDFD_GETFD, pidfd, number, 0))


def ptrace(request: int, pid: int, data: int = 0) -> None:
    """A tracer is a thread: what one has seized only the same one can continue."""
    _checked(_libc.ptrace(request, pid, None, data or None))


def filter_system_calls(program: bytes) -> None:
    """Of the calling thread and of what it starts, for ever. `program` is classic BPF."""
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, None, 0, 0))
    argument = _FilterProgram(len(program) // _INSTRUCTION_BYTES, program)
    _checked(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(argument), 0, 0))


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
