"""bubblewrap, tried as the export manager uses it."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloudmanager.confined import Ended, Launch, Launched, NoAnswer, Spawner, Stderr, Unconfinable
from cloudmanager.confined.groups import ControlGroups
from cloudmanager.core.model import Finding, Severity
from cloudmanager.core.nbd.startup import FILES_PER_SERVER, THREADS_PER_SERVER
from cloudmanager.core.settings import Settings

SUBJECT = "bubblewrap"
DEVICES = "device nodes"
HOLDING = "holding servers"
NO_SANDBOX = 'set [nbd] sandbox = "none", which lets qemu-nbd see this machine\'s files and network'
TIMEOUT_SECONDS = 10
_UBUNTU_RESTRICTION = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_WAITING = ["/bin/sh", "-c", "cd /; exec sleep 60"]
"""As a server does it: changes to the root directory, and waits."""


def check_sandbox(settings: Settings) -> Iterator[Finding]:
    if settings.nbd.sandbox == "none":
        yield Finding(
            SUBJECT,
            Severity.WARNING,
            'switched off: [nbd] sandbox = "none"',
            "A flaw in qemu-nbd that a hostile image uses would have this machine's files and network. Prefer "
            'sandbox = "bubblewrap".',
        )
        with Spawner(is_sandboxed=False, holds=True) as spawner:
            yield _try_to_hold(spawner)
    elif not shutil.which("bwrap"):
        yield Finding(
            SUBJECT, Severity.PROBLEM, "bwrap not found on PATH", f"apt-get install bubblewrap, or {NO_SANDBOX}."
        )
    else:
        with Spawner(is_sandboxed=True, holds=True) as spawner:
            finding = _try(spawner)
            yield finding
            if finding.severity is not Severity.PROBLEM:
                yield _devices(spawner)


def _try(spawner: Spawner) -> Finding:
    """Takes a descriptor back out of it, which for a server is the listener that a restarted service adopts."""
    try:
        with _held(spawner) as launched:
            return _judge(launched)
    except Unconfinable as error:
        return Finding(SUBJECT, Severity.PROBLEM, "cannot confine a process", f"{error} Otherwise {NO_SANDBOX}.")
    except _NotStarted as error:
        return Finding(
            SUBJECT, Severity.PROBLEM, f"cannot confine a process: {error}", f"{_remedy()}, or {NO_SANDBOX}."
        )


def _try_to_hold(spawner: Spawner) -> Finding:
    try:
        with _held(spawner):
            return Finding(HOLDING, Severity.OK, "a server answers no client before its open files are verified")
    except (Unconfinable, _NotStarted) as error:
        return Finding(HOLDING, Severity.PROBLEM, "does not work: no export can be served", str(error))


class _NotStarted(Exception):
    """The output of a program that did not start."""


@contextmanager
def _held(spawner: Spawner) -> Iterator[Launched]:
    """A process that is started like a server and then waits. Raises Unconfinable, _NotStarted."""
    stderr = Stderr()
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        with spawner.confinement() as confinement, Path(__file__).open("rb") as file:
            confinement.show(file.fileno(), __file__)
            launched = Launch(_WAITING, confinement, stderr).start(spawner, deadline)
        try:
            with launched.held(deadline):
                yield launched
        finally:
            launched.finish()
    except (Ended, NoAnswer, OSError) as error:
        raise _NotStarted(stderr.read().strip() or str(error) or "it does not answer") from error
    finally:
        stderr.close()


def _judge(launched: Launched) -> Finding:
    try:
        os.close(launched.server.take_descriptor(0))
    except OSError as error:
        return Finding(
            SUBJECT,
            Severity.WARNING,
            f"works, but a descriptor cannot be taken back out of it ({error.strerror})",
            "A service that is started again cannot drain the exports of the one before. Run it as root, or with "
            "CAP_SYS_PTRACE.",
        )
    return Finding(SUBJECT, Severity.OK, "confines a process, filters its system calls, and gives its descriptors back")


def _devices(spawner: Spawner) -> Finding:
    if spawner.can_make_node(_any_block_device()):
        return Finding(DEVICES, Severity.OK, "a server sees a node of its own, which it can neither change nor exceed")
    return Finding(
        DEVICES,
        Severity.OK,
        "no nodes can be made: servers of read-only devices get a filter that lets them open nothing for writing",
        "A scratch export of a device that the service's user may write is refused. Run the service as root with "
        "CAP_MKNOD, outside of a user namespace.",
    )


def _any_block_device() -> int:
    """The number of one of this machine's, or of a loop device."""
    for name in sorted(Path("/sys/class/block").glob("*/dev")):
        major, _, minor = name.read_text().strip().partition(":")
        return os.makedev(int(major), int(minor))
    return os.makedev(7, 0)


def _remedy() -> str:
    if os.geteuid() == 0:
        return "Give root CAP_SYS_ADMIN and CAP_NET_ADMIN (compose.yaml shows how, for a container)"
    if _is_set(_UBUNTU_RESTRICTION):
        return (
            "Run the service as root, or allow bwrap its user namespaces with an AppArmor profile "
            "(kernel.apparmor_restrict_unprivileged_userns is 1)"
        )
    return "Run the service as root, or allow this user to make user namespaces"


def _is_set(switch: Path) -> bool:
    try:
        return switch.read_text().strip() == "1"
    except OSError:
        return False


LIMITS = "limits of servers"


def check_limits(settings: Settings) -> Iterator[Finding]:
    memory = f"{settings.nbd.memory_limit_bytes / 2**20:.0f} MiB of memory (RLIMIT_DATA)"
    files = f"{FILES_PER_SERVER} open files (RLIMIT_NOFILE)"
    yield Finding(LIMITS, Severity.OK, f"{memory}, {files}, {_shared(ControlGroups.find(), settings.nbd.cpu_weight)}")


def _shared(groups: ControlGroups | None, cpu_weight: int) -> str:
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
