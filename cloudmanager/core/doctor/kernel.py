"""What the kernel offers."""

import os
import platform
from collections.abc import Callable, Iterator

from cloudmanager.confined import Process
from cloudmanager.core.model import Finding, Severity

NEWER = "Linux 5.6 or newer is needed, with this system call allowed (in a container: by its seccomp profile)."


def check_kernel() -> Iterator[Finding]:
    yield Finding("kernel", Severity.OK, f"{platform.system()} {platform.release()}")
    yield _check("pidfd_open", lambda: os.close(os.pidfd_open(os.getpid())))
    yield _check("pidfd_getfd", _copy_own_descriptor)


def _copy_own_descriptor() -> None:
    process = Process(os.getpid())
    try:
        os.close(process.take_descriptor(process.fd))
    finally:
        process.close()


def _check(system_call: str, attempt: Callable[[], None]) -> Finding:
    try:
        attempt()
    except OSError as error:
        return Finding(system_call, Severity.PROBLEM, f"does not work: {error.strerror}", NEWER)
    return Finding(system_call, Severity.OK, "works")
