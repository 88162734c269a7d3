"""bubblewrap, tried as the export manager uses it."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cloudmanager.core.errors import ServerFailed
from cloudmanager.core.model import Finding, Severity
from cloudmanager.core.nbd.confinement import Bubblewrap
from cloudmanager.core.nbd.process import Process
from cloudmanager.core.settings import Settings

SUBJECT = "bubblewrap"
OTHERWISE = 'or set [nbd] sandbox = "none", which lets qemu-nbd see this machine\'s files and network'
TIMEOUT_SECONDS = 10
_UBUNTU_RESTRICTION = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")


def check_sandbox(settings: Settings) -> Iterator[Finding]:
    if settings.nbd.sandbox == "none":
        yield Finding(
            SUBJECT,
            Severity.WARNING,
            'switched off: [nbd] sandbox = "none"',
            "A flaw in qemu-nbd that a hostile image uses would have this machine's files and network. Prefer "
            'sandbox = "bubblewrap".',
        )
    elif not shutil.which("bwrap"):
        yield Finding(SUBJECT, Severity.PROBLEM, "bwrap not found on PATH", f"apt-get install bubblewrap, {OTHERWISE}.")
    else:
        with tempfile.TemporaryDirectory() as directory:
            yield _try(Bubblewrap(Path(directory)))


def _try(sandbox: Bubblewrap) -> Finding:
    """Starts a confined process that waits, learns its pid and takes its standard input back out of it.

    The pid is what the export manager signals; the descriptor is the listener that a restarted service adopts.
    """
    reader, writer = os.pipe()
    try:
        process = _start(sandbox.wrap(["cat"], writer), writer)
    except (OSError, ServerFailed) as error:
        os.close(reader)
        return _broken(str(error))
    finally:
        os.close(writer)
    with os.fdopen(reader) as info, process:
        finding = _judge(info.read())
        _, complaint = process.communicate(timeout=TIMEOUT_SECONDS)
    return _broken(complaint.strip() or f"exit code {process.returncode}") if process.returncode else finding


def _start(command: list[str], info_fd: int) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe, text=True, pass_fds=[info_fd], close_fds=True
    )


def _judge(told: str) -> Finding:
    try:
        pid = json.loads(told)["child-pid"]
    except (ValueError, KeyError):
        return _broken("it does not tell the pid of what it runs (--info-fd)")
    try:
        _take_input(pid)
    except OSError as error:
        return Finding(
            SUBJECT,
            Severity.WARNING,
            f"works, but a descriptor cannot be taken back out of it ({error.strerror})",
            "A service that is started again cannot drain the exports of the one before. Run it as root, or with "
            "CAP_SYS_PTRACE.",
        )
    return Finding(SUBJECT, Severity.OK, "confines a process and gives its descriptors back")


def _take_input(pid: int) -> None:
    process = Process(pid)
    try:
        os.close(process.take_descriptor(0))
    finally:
        process.close()


def _broken(reason: str) -> Finding:
    return Finding(SUBJECT, Severity.PROBLEM, f"cannot confine a process: {reason}", f"{_remedy()}, {OTHERWISE}.")


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
