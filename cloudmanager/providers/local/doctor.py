"""What `cloudmanager doctor` says about a local provider."""

import os
from collections.abc import Iterator
from pathlib import Path

from cloudmanager.core.model import Finding, Severity
from cloudmanager.providers.local import sysfs
from cloudmanager.providers.local.device_names import is_disk
from cloudmanager.providers.local.roots import Roots, read_text
from cloudmanager.providers.local.settings import LocalSettings


def findings(settings: LocalSettings, roots: Roots) -> Iterator[Finding]:
    if not settings.images and not settings.devices:
        yield Finding("disks", Severity.WARNING, "none can be exported", "Set images = [...], or devices = true.")
    for directory in settings.images:
        yield _directory("image directory", directory)
    for directory in settings.allow_backing_from:
        yield _directory("backing directory", directory)
    if settings.devices:
        yield from _devices(roots)
    yield _machine(roots)


def _directory(kind: str, directory: Path) -> Finding:
    subject = f"{kind} {directory}"
    if not directory.is_dir():
        return Finding(subject, Severity.PROBLEM, "is not there", f"Create it (mkdir -p {directory}) or mount it.")
    if not os.access(directory, os.R_OK | os.X_OK):
        user = f"user id {os.geteuid()}"
        return Finding(subject, Severity.PROBLEM, "cannot be read", f"Give {user} permission to read and enter it.")
    return Finding(subject, Severity.OK, "can be read")


def _devices(roots: Roots) -> Iterator[Finding]:
    disks = [device for device in sysfs.all_devices(roots) if is_disk(device)]
    if not disks:
        yield Finding("block devices", Severity.WARNING, "none are visible", f"Check that {roots.sys} is mounted.")
        return
    yield Finding("block devices", Severity.OK, f"{len(disks)} disks and partitions are visible")
    closed = [disk.name for disk in disks if not os.access(roots.dev / disk.node_name, os.R_OK)]
    if closed:
        advice = f"Run as root or in the group disk; in a container, hand {roots.dev} in."
        yield Finding("device nodes", Severity.PROBLEM, f"cannot be read: {', '.join(closed)}", advice)


def _machine(roots: Roots) -> Finding:
    if read_text(roots.machine_id):
        return Finding("machine id", Severity.OK, "names this machine's disks")
    advice = "Run systemd-machine-id-setup, or mount the host's /etc/machine-id into the container."
    return Finding("machine id", Severity.WARNING, f"{roots.machine_id} is missing: disks are named otherwise", advice)
