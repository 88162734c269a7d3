"""What bounds a server, and by which means here."""

from collections.abc import Iterator

from cloudmanager.confined.groups import Groups
from cloudmanager.core.model import Finding, Severity
from cloudmanager.core.nbd.startup import FILES_PER_SERVER, THREADS_PER_SERVER
from cloudmanager.core.settings import Settings

SUBJECT = "limits of servers"


def check_limits(settings: Settings) -> Iterator[Finding]:
    memory = f"{settings.nbd.memory_limit_bytes / 2**20:.0f} MiB of memory (RLIMIT_DATA)"
    files = f"{FILES_PER_SERVER} open files (RLIMIT_NOFILE)"
    yield Finding(SUBJECT, Severity.OK, f"{memory}, {files}, {_shared(Groups.find(), settings.nbd.cpu_weight)}")


def _shared(groups: Groups | None, cpu_weight: int) -> str:
    """Threads, and the part of the processors."""
    controllers = groups.controllers if groups else ()
    threads = (
        f"{THREADS_PER_SERVER} threads (control group)"
        if "pids" in controllers
        else "no process of its own (filter of system calls) and threads as far as memory goes"
    )
    if "cpu" not in controllers:
        return f"{threads}; no control group can be made from here, so processors are divided by sessions"
    return f"{threads}, CPU weight {cpu_weight} (control group, version {groups.version if groups else ''})"
