"""A hostile program in the place of a server: tries what it should not be able to do, and says what succeeded.

Run as `python3 attack.py PORT NODE FILE`, with a listening socket as descriptor 3 and a connection to it waiting. Each
line of its output is an attempt that succeeded; the last line says how many were made.
"""

import ctypes
import os
import platform
import socket
import struct
import sys
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
port, node, file = int(sys.argv[1]), os.fsencode(sys.argv[2]), os.fsencode(sys.argv[3])
listener = socket.socket(fileno=3)
accepted, _ = listener.accept()
ADDRESS = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, socket.inet_aton("127.0.0.1"))
NOWHERE = bytes(16)  # AF_UNSPEC: disconnects
MSG_FASTOPEN = 0x20000000
made: list[str] = []
ONE = ctypes.create_string_buffer(4096)


def here(x86: int, arm: int) -> int:
    """The number of a system call on this machine."""
    return {"x86_64": x86, "aarch64": arm}.get(platform.machine(), 9999)


def attempt(name: str, result: int) -> None:
    """A system call that answers with anything but -1 has done something."""
    made.append(name)
    if result != -1:
        sys.stdout.write(f"{name}: {result}\n")


def calls(name: str, *arguments: Any) -> None:
    attempt(f"{name}{arguments}", getattr(libc, name)(*arguments))


def numbered(name: str, number: int, *arguments: Any) -> None:
    attempt(name, libc.syscall(number, *arguments))


def sends(name: str, descriptor: int, flags: int, address: bytes) -> None:
    """sendmsg(2) with an address, which connects where that is allowed."""
    target = ctypes.create_string_buffer(address, len(address))
    data = ctypes.create_string_buffer(b"GET / HTTP/1.0\r\n\r\n")
    vector = struct.pack("QQ", ctypes.addressof(data), 18)
    vectors = ctypes.create_string_buffer(vector, len(vector))
    message = struct.pack("QI4xQQQQi4x", ctypes.addressof(target), len(address), ctypes.addressof(vectors), 1, 0, 0, 0)
    header = ctypes.create_string_buffer(message, len(message))
    attempt(name, libc.sendmsg(descriptor, header, flags))


# A way to anywhere
for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, 40, 38):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        calls("socket", int(family), int(kind), 0)
calls("socketpair", int(socket.AF_UNIX), int(socket.SOCK_STREAM), 0, ONE)
for descriptor in (accepted.fileno(), 3):
    calls("connect", descriptor, NOWHERE, 16)
    calls("connect", descriptor, ADDRESS, 16)
    calls("bind", descriptor, ADDRESS, 16)
    libc.shutdown(descriptor, 2)  # its own to end
    calls("connect", descriptor, ADDRESS, 16)
    calls("listen", descriptor, 1)
    attempt("sendto", libc.sendto(descriptor, b"GET / HTTP/1.0\r\n\r\n", 18, MSG_FASTOPEN, ADDRESS, 16))
    sends("sendmsg with MSG_FASTOPEN", descriptor, MSG_FASTOPEN, ADDRESS)
    for option in (19, 23, 30, 31, 35):  # repair, fast open, fast open connect, TLS, one-off
        attempt(f"setsockopt TCP {option}", libc.setsockopt(descriptor, 6, option, struct.pack("i", 1), 4))
    for option in (25, 62, 26, 50, 36):  # devices, filters, marks
        attempt(f"setsockopt socket {option}", libc.setsockopt(descriptor, 1, option, struct.pack("QQ", 1, 1), 16))
    numbered(
        "sendmmsg", {"x86_64": 307, "aarch64": 269}.get(platform.machine(), 9999), descriptor, ONE, 1, MSG_FASTOPEN
    )
numbered("io_uring_setup", 425, 1, ONE)
numbered("io_uring_enter", 426, 0, 1, 1, 0, 0, 0)

# Another world
for flags in (0x10000000, 0x40000000, 0x20000, 0x50020000, 0x7E020080):
    calls("unshare", flags)
    attempt(
        f"clone {flags:#x}",
        libc.syscall(here(56, 220), flags | 17, 0, 0, 0, 0),
    )
numbered("clone3", 435, struct.pack("Q", 0x10000000) + bytes(80), 88)
calls("setns", 0, 0)
calls("mount", b"none", b"/dev", b"tmpfs", 0, None)
calls("mount", None, file, None, 0x1020, None)  # remount writable
calls("umount2", b"/usr", 2)
calls("chroot", b"/usr")
for name, number in (
    ("open_tree", 428),
    ("move_mount", 429),
    ("fsopen", 430),
    ("fsmount", 432),
    ("mount_setattr", 442),
):
    numbered(name, number, -100, b"/", 0, ONE, 0)

# Others' processes
calls("fork")
calls("vfork")
calls("kill", 1, 0)
calls("kill", -1, 0)
for request in (0, 16, 0x4206):
    calls("ptrace", request, 1, 0, 0)
calls("process_vm_readv", 1, ONE, 1, ONE, 1, 0)
numbered("pidfd_open", 434, 1, 0)
numbered("pidfd_getfd", 438, 3, 0, 0)
numbered("pidfd_send_signal", 424, 3, 0, 0, 0)
numbered("process_madvise", 440, 3, ONE, 1, 4, 0)

# The kernel
for name, x86, arm, arguments in (
    ("keyctl", 250, 219, (0, -3, 1)),
    ("add_key", 248, 217, (b"user", b"a", b"b", 1, -3)),
    ("request_key", 249, 218, (b"user", b"a", b"b", -3)),
    ("bpf", 321, 280, (0, ONE, 64)),
    ("userfaultfd", 323, 282, (0,)),
    ("perf_event_open", 298, 241, (ONE, 0, -1, -1, 0)),
    ("init_module", 175, 105, (ONE, 1, b"")),
    ("kexec_load", 246, 104, (0, 0, 0, 0)),
    ("seccomp", 317, 277, (2, 0, 0)),
    ("quotactl", 179, 60, (0, b"", 0, ONE)),
    ("syslog", 103, 116, (3, ONE, 100)),
    ("fanotify_init", 300, 262, (0, 0)),
    ("inotify_init1", 294, 26, (0,)),
    ("memfd_create", 319, 279, (b"a", 0)),
    ("personality", 135, 92, (0x0040000,)),
    ("setuid", 105, 146, (0,)),
    ("capset", 126, 91, (ONE, ONE)),
    ("name_to_handle_at", 303, 264, (-100, b"/", ONE, ONE, 0)),
    ("open_by_handle_at", 304, 265, (-100, ONE, 0)),
    ("acct", 163, 89, (0,)),
    ("swapon", 167, 224, (b"/", 0)),
    ("reboot", 169, 142, (0, 0, 0, 0)),
    ("sethostname", 170, 161, (b"a", 1)),
    ("settimeofday", 164, 170, (ONE, 0)),
    ("vmsplice", 278, 75, (1, ONE, 0, 0)),
):
    numbered(name, here(x86, arm), *arguments)
numbered("openat2", 437, -100, b"/", ONE, 24)
numbered("landlock_create_ruleset", 444, 0, 0, 1)
numbered("memfd_secret", 447, 0)
calls("prctl", 4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
calls("prctl", 47, 2, 6, 0, 0)  # PR_CAP_AMBIENT
calls("prctl", 0x59616D61, 1, 0, 0, 0)  # PR_SET_PTRACER

# What it is shown
for path in (node, file, b"/dev/null", b"/usr", b"/"):
    calls("chmod", path, 0o777)
    calls("chown", path, 0, 0)
    calls("rename", path, b"/dev/elsewhere")
    calls("unlink", path)
    calls("link", path, b"/dev/link")
    calls("setxattr", path, b"user.a", b"b", 1, 0)
    calls("utime", path, None)
    numbered("fchmodat2", 452, -100, path, 0o777, 0)
calls("fchmod", 1, 0o777)
calls("fchmod", 3, 0o777)
for flags in (os.O_WRONLY, os.O_RDWR, 3, os.O_RDONLY | os.O_TRUNC):
    for path in (node, file):
        calls("open", path, flags)
calls("mknod", b"/dev/node", 0o60666, 0x700)
calls("truncate", file, 0)
reader = os.open(node, os.O_RDONLY)
for request in (
    0x125D,
    0x1261,
    0x1277,
    0x127F,
    0x2285,
    0x4C01,
):  # set read-only to clear loop
    attempt(f"ioctl {request:#x}", libc.ioctl(reader, request, struct.pack("QQ", 0, 512)))
attempt("fallocate", libc.fallocate(reader, 3, 0, 512))
attempt("write", libc.write(reader, b"x", 1))
calls("ioctl", 0, 0x5412, ONE)  # TIOCSTI
sys.stdout.write(f"{len(made)} attempts\n")
