"""Which system calls a confined program may make: an allow-list, for programs that read and serve disk images.

qemu-nbd, qemu-img and nbdkit run under it, and the shell that sets their limits. A call that is not on the list fails
with ENOSYS and does nothing: libraries and programs are written for older kernels, too, and fall back. So a newer
library that tries a newer call first does not cost an export, as it would if the program were killed.

A call in a foreign convention of the processor (32 bits, x32) kills: no program of the system makes one.
"""

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from cloudmanager.confined.libseccomp import ALLOW, KILL, Argument, Filter, fail, trace
from cloudmanager.linux import block

HELD_CALL = "chdir"
"""qemu-nbd makes it once: it has opened everything, and accepted no client. See `hold`."""

_MEMORY = "brk madvise membarrier mmap mprotect mremap munmap get_mempolicy set_mempolicy mincore"
_FILES = """
    access close dup dup2 dup3 faccessat faccessat2 fadvise64 fallocate fcntl fdatasync fstat fstatfs fsync ftruncate
    getcwd getdents64 lseek lstat newfstatat pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink
    readlinkat readv stat statfs statx sync_file_range umask write writev copy_file_range
"""
_WAITING = """
    clock_getres clock_gettime clock_nanosleep epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd2
    futex gettimeofday nanosleep pipe2 poll ppoll pselect6 restart_syscall select signalfd4 time timerfd_create
    timerfd_gettime timerfd_settime
"""
_ITSELF = """
    arch_prctl execve exit exit_group getegid geteuid getgid getgroups getpgrp getpid getppid getrandom getresgid
    getresuid getrlimit getrusage gettid getuid rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn
    rt_sigsuspend rt_sigtimedwait sched_getaffinity sched_getparam sched_getscheduler sched_yield set_robust_list
    set_tid_address sigaltstack sysinfo tgkill uname
"""
_CONNECTIONS = "accept accept4 getpeername getsockname getsockopt recvfrom recvmsg shutdown"
"""No `socket`, `connect`, `bind` or `listen`: a listener is handed down, and accepted clients have connected."""

_OPENING: Mapping[str, int] = {"open": 1, "openat": 2}
"""The number of the argument with the flags. `openat2` has them in memory, where a filter cannot look."""
_WRITING_FLAGS = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC

_MSG_FASTOPEN = 0x20000000
_CLONE_THREAD = 0x10000
_NEW_NAMESPACES = 0x7E020000
_CLONE_FLAGS = 1 if os.uname().machine == "s390x" else 0
"""The number of the argument with them."""
_SOL_SOCKET, _IPPROTO_TCP = 1, 6
_SO_KEEPALIVE = 9
_TCP_NODELAY, _TCP_CORK, _TCP_KEEPIDLE, _TCP_KEEPINTVL, _TCP_KEEPCNT, _TCP_USER_TIMEOUT = 1, 3, 4, 5, 6, 18
_SOCKET_OPTIONS = [
    (_SOL_SOCKET, _SO_KEEPALIVE),
    *(
        (_IPPROTO_TCP, option)
        for option in (_TCP_NODELAY, _TCP_CORK, _TCP_KEEPIDLE, _TCP_KEEPINTVL, _TCP_KEEPCNT, _TCP_USER_TIMEOUT)
    ),
]
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_TIMERSLACK = 1, 15, 29
_IOCTLS = {
    "TCGETS": 0x5401,
    "FIONREAD": 0x541B,
    "FIONBIO": 0x5421,
    "FIONCLEX": 0x5450,
    "FIOCLEX": 0x5451,
    "BLKROGET": block.BLKROGET,
    "BLKGETSIZE": block.BLKGETSIZE,
    "BLKSECTGET": block.BLKSECTGET,
    "BLKSSZGET": block.BLKSSZGET,
    "BLKGETSIZE64": block.BLKGETSIZE64,
    "BLKDISCARD": block.BLKDISCARD,
    "BLKIOMIN": block.BLKIOMIN,
    "BLKIOOPT": block.BLKIOOPT,
    "BLKPBSZGET": block.BLKPBSZGET,
    "BLKDISCARDZEROES": block.BLKDISCARDZEROES,
    "BLKROTATIONAL": block.BLKROTATIONAL,
    "BLKZEROOUT": block.BLKZEROOUT,
    "HDIO_GETGEO": 0x0301,
    "XFS_IOC_DIOINFO": 0x800C581E,
    "FS_IOC_FIEMAP": 0xC020660B,
}
"""What is asked of descriptors, disks and files, and how parts of disks are given back: each needs a descriptor that
may do it. Interpreters and C libraries take the first five for granted."""


@cache
def allow_list(*, is_held: bool, opens_to_read: bool) -> bytes:
    """The filter, as bubblewrap takes it. Raises Unconfinable.

    `is_held`: `HELD_CALL` is a tracer's to decide, and fails without one.
    `opens_to_read`: no file can be opened for anything else.
    """
    with Filter(fail(errno.ENOSYS), on_foreign_calls=KILL) as made:
        for call in " ".join((_MEMORY, _FILES, _WAITING, _ITSELF, _CONNECTIONS)).split():
            made.add(ALLOW, call)
        made.add(trace(0) if is_held else ALLOW, HELD_CALL)
        # nbdkit asks to end with its parent, and does not start if that fails. The program outlives its launcher.
        made.add(fail(0), "prctl", [Argument(0, _PR_SET_PDEATHSIG)])
        for call, arguments in _by_arguments(opens_to_read=opens_to_read):
            made.add(ALLOW, call, arguments)
        return made.program()


@cache
def hold_only() -> bytes:
    """Everything is allowed, but `HELD_CALL` is a tracer's to decide. Raises Unconfinable."""
    with Filter(ALLOW, on_foreign_calls=ALLOW) as made:
        made.add(trace(0), HELD_CALL)
        return made.program()


def _by_arguments(*, opens_to_read: bool) -> Iterable[tuple[str, Sequence[Argument]]]:
    for call, flags in _OPENING.items():
        if opens_to_read:
            yield call, [Argument(flags, os.O_RDONLY, _WRITING_FLAGS)]
        else:
            # Not with both bits, which a read-only mount does not refuse.
            for access in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
                yield call, [Argument(flags, access, os.O_ACCMODE)]
    yield "clone", [Argument(_CLONE_FLAGS, _CLONE_THREAD, _CLONE_THREAD | _NEW_NAMESPACES)]
    yield "prlimit64", [Argument(0, 0)]
    # Sent with MSG_FASTOPEN or to an address, bytes connect a socket that was disconnected by `shutdown`.
    yield "sendmsg", [Argument(2, 0, _MSG_FASTOPEN)]
    yield "sendto", [Argument(3, 0, _MSG_FASTOPEN), Argument(4, 0, 2**64 - 1)]
    for level, option in _SOCKET_OPTIONS:
        yield "setsockopt", [Argument(1, level), Argument(2, option)]
    for option in (_PR_SET_NAME, _PR_SET_TIMERSLACK):
        yield "prctl", [Argument(0, option)]
    for request in _IOCTLS.values():
        yield "ioctl", [Argument(1, request)]
