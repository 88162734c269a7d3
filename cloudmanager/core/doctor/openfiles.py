"""Whether the service may have as many files open as its exports need: the one that runs, else the one that would."""

import resource
import subprocess
from collections.abc import Iterator
from contextlib import suppress

from cloudmanager.core import openfiles
from cloudmanager.core.model import Finding, Severity
from cloudmanager.core.openfiles import Capacity
from cloudmanager.core.settings import Settings, parse_ports
from cloudmanager.core.statedir import service_pid

UNIT = "cloudmanager.service"
_SECONDS = 5


def check_open_files(settings: Settings) -> Iterator[Finding]:
    who, files = _allowed(settings)
    capacity = Capacity(len(parse_ports(settings.nbd.ports)), files)
    if not capacity.is_short_of_files:
        yield Finding("open files", Severity.OK, f"{who}: {capacity}")
        return
    advice = openfiles.how_to_serve(capacity.ports)
    yield Finding("open files", Severity.WARNING, f"{who}: {capacity}", advice)


def _allowed(settings: Settings) -> tuple[str, int]:
    """Whose limit, and how many files that is. A service raises its soft limit itself."""
    pid = service_pid(settings.server.state_dir)
    if pid is not None and (files := openfiles.limit_of(pid)) is not None:
        return f"the running service (process {pid})", files
    if (files := _of_unit()) is not None:
        return UNIT, files
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return "a service that is started from here", openfiles.counted(hard)


def _of_unit() -> int | None:
    """What systemd would allow it; None where there is no such unit."""
    command = ["systemctl", "show", "--property=LoadState,LimitNOFILE", UNIT]
    with suppress(OSError, subprocess.SubprocessError, ValueError, KeyError):
        shown = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
        values = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        if values["LoadState"] == "loaded":
            return openfiles.counted(int(values["LimitNOFILE"].replace("infinity", "-1")))
    return None
