"""QEMU's tools, and which formats they really read."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

from cloudmanager.core.model import Finding, Severity
from cloudmanager.core.nbd.engines import NBDKIT, can_be_used
from cloudmanager.core.settings import NbdSettings, Settings

OLDEST = (6, 2)
"""The oldest QEMU that cloudmanager is tried with (Ubuntu 22.04's)."""
FORMATS = ("qcow2", "vmdk", "vdi", "vpc", "vhdx", "parallels", "dmg")
"""Besides raw, which every QEMU has."""
INSTALL = "Install it: apt-get install qemu-utils"
_MISSING_DRIVER = re.compile(r"Unknown driver|whitelist")


def check_qemu(settings: Settings) -> Iterator[Finding]:
    server = _check_nbd()
    yield server
    yield _check_engine(settings.nbd)
    yield _check_img()
    if server.severity is not Severity.PROBLEM:
        yield _check_formats()


def _check_engine(settings: NbdSettings) -> Finding:
    """Which program raw disks get that are only read, and why."""
    subject, cuts = "bad sectors", "raw disks that are only read are served by qemu-nbd, and a bad sector cuts off "
    cuts += "clients built on libnbd (nbdcopy, nbdfuse)"
    if not can_be_used(settings):
        why = "[nbd] engine, connections, sandbox and memory_limit_bytes leave nothing to nbdkit"
        return Finding(subject, Severity.OK, f"{why}: {cuts}")
    missing = NBDKIT.missing()
    if not missing:
        return Finding(subject, Severity.OK, "raw disks that are only read are served by nbdkit: each is an error")
    advice = f"Install it: apt-get install {NBDKIT.package}"
    if settings.engine == "auto":
        return Finding(subject, Severity.WARNING, f"{cuts}. {missing}", advice)
    return Finding(subject, Severity.PROBLEM, missing, f'{advice}. Or set [nbd] engine = "auto".')


def _check_nbd() -> Finding:
    subject = "qemu-nbd"
    path = shutil.which(subject)
    if not path:
        return Finding(subject, Severity.PROBLEM, "not found on PATH", INSTALL)
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(subject, Severity.PROBLEM, f"{path} does not run: {error}", "Reinstall qemu-utils.")
    version = re.search(r"\b(\d+)\.(\d+)[.\d]*", answer.stdout)
    if not version:
        return Finding(subject, Severity.WARNING, f"{path} prints no version", "Make sure that it is QEMU's.")
    seen = f"{version[0]} at {path}"
    if (int(version[1]), int(version[2])) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        return Finding(subject, Severity.WARNING, seen, f"QEMU {wanted} or newer is recommended.")
    return Finding(subject, Severity.OK, seen)


def _check_img() -> Finding:
    path = shutil.which("qemu-img")
    if not path:
        return Finding("qemu-img", Severity.PROBLEM, "not found on PATH: no scratch exports", INSTALL)
    return Finding("qemu-img", Severity.OK, path)


def _check_formats() -> Finding:
    missing = [name for name in FORMATS if not _has_driver(name)]
    present = ", ".join(["raw", *(name for name in FORMATS if name not in missing)])
    if not missing:
        return Finding("image formats", Severity.OK, present)
    return Finding(
        "image formats",
        Severity.WARNING,
        f"{present}; not {', '.join(missing)}",
        "Images of the missing formats cannot be exported with this build of QEMU; a fuller one can.",
    )


def _has_driver(name: str) -> bool:
    """Opens nothing but zeros as this format: a driver that is there refuses them, one that is not is unknown.

    The list in `qemu-img --help` also names modules that are not installed.
    """
    image = f"driver={name},file.driver=null-co,file.read-zeroes=on,file.size=1048576"
    with tempfile.TemporaryDirectory() as directory:
        command = ["qemu-nbd", "--read-only", "--socket", f"{directory}/socket", "--image-opts", image]
        try:
            answer = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=False
            )
        except subprocess.TimeoutExpired:
            return True  # it took the zeros for an image and serves them
    return not _MISSING_DRIVER.search(answer.stderr)
