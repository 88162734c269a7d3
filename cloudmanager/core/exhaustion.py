"""What this service or its machine can run out of. It says nothing of a disk or a file, and passes.

Code that takes "cannot be opened" for "is not there" checks here first: else a device would seem to be gone, or to be
another one, because a file descriptor was missing for the look at it.
"""

import errno

from cloudmanager.core.errors import ResourcesExhausted

RETRY_SECONDS = 5.0
_MEANINGS = {
    errno.EMFILE: (
        "The service has as many files open as it may. Release exports, or raise its limit (LimitNOFILE in its unit, "
        "`ulimit -n`)."
    ),
    errno.ENFILE: (
        "This machine has as many files open as it may: raise fs.file-max, or find the program that has so many open."
    ),
    errno.ENOMEM: "This machine has no memory left for it.",
    errno.ENOBUFS: "The kernel has no memory left for another socket.",
}
_NO_PROCESS = (
    "No process or thread can be started: the service, its user or its control group has as many as it may (TasksMax "
    "in its unit, `ulimit -u`, pids.max), or the machine is out of memory."
)
_NO_THREAD = "can't start new thread"
"""Python's message; it has no exception type for that."""


def exhausted(error: BaseException, *, is_start: bool = False) -> ResourcesExhausted | None:
    """What has run out, if that is what the error says. `is_start`: of a process, where EAGAIN means that too."""
    detail = ""
    if isinstance(error, OSError):
        detail = _MEANINGS.get(error.errno or 0, "")
        if is_start and error.errno == errno.EAGAIN:
            detail = _NO_PROCESS
    elif isinstance(error, MemoryError):
        detail = _MEANINGS[errno.ENOMEM]
    elif isinstance(error, RuntimeError) and _NO_THREAD in str(error):
        detail = _NO_PROCESS
    return ResourcesExhausted(detail, retry_after=RETRY_SECONDS) if detail else None


def raise_exhausted(error: BaseException) -> None:
    """Raises ResourcesExhausted if that is what the error says, and nothing else."""
    if found := exhausted(error):
        raise found from error
