"""What the kernel offers, and what this process may do."""

import os
import platform
import pwd
from collections.abc import Callable, Iterator

from cloudmanager.confined import Process
from cloudmanager.confined.kernel import effective_capabilities
from cloudmanager.core.model import Finding, Severity

_OWN_NODE = "device nodes that a read-only export cannot write to"
# Bits of linux/capability.h, and what goes without them.
CAPABILITIES = {
    "CAP_CHOWN": (0, _OWN_NODE),
    "CAP_DAC_OVERRIDE": (1, "opening disks whatever their owner"),
    "CAP_FOWNER": (3, _OWN_NODE),
    "CAP_NET_ADMIN": (12, "the sandbox's empty network"),
    "CAP_SYS_PTRACE": (19, "taking running exports over after a restart"),
    "CAP_SYS_ADMIN": (21, "the sandbox, and making attached disks read-only"),
    "CAP_MKNOD": (27, _OWN_NODE),
}


def check_privileges() -> Finding:
    if os.geteuid() != 0:
        return Finding(
            "user",
            Severity.WARNING,
            f"{_user_name()}, not root: image files that this user can read can be exported",
            "Block devices and cloud disks need root.",
        )
    effective = effective_capabilities()
    lacking = [f"{name} ({use})" for name, (bit, use) in CAPABILITIES.items() if not effective >> bit & 1]
    if lacking:
        advice = "Give root these capabilities; compose.yaml shows how, for a container."
        return Finding("user", Severity.WARNING, f"root without {', '.join(lacking)}", advice)
    return Finding("user", Severity.OK, "root, with every capability that is used")


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"


NEWER = "Linux 5.6 or newer is needed, with this system call allowed (in a container: by its seccomp profile)."


def check_kernel() -> Iterator[Finding]:
    yield Finding("kernel", Severity.OK, f"{platform.system()} {platform.release()}")
    yield _check_call("pidfd_open", lambda: os.close(os.pidfd_open(os.getpid())))
    yield _check_call("pidfd_getfd", _copy_own_descriptor)


def _copy_own_descriptor() -> None:
    process = Process(os.getpid())
    try:
        os.close(process.take_descriptor(process.fd))
    finally:
        process.close()


def _check_call(system_call: str, attempt: Callable[[], None]) -> Finding:
    try:
        attempt()
    except OSError as error:
        return Finding(system_call, Severity.PROBLEM, f"does not work: {error.strerror}", NEWER)
    return Finding(system_call, Severity.OK, "works")
