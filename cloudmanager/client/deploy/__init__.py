"""Writes an image onto a disk: `deploy(source, target)`.

    from cloudmanager.client.deploy import deploy

    deploy(Path("system.qcow2"), address, verify=True, grow=True)

The source is a file (raw, qcow2, vmdk, vdi, vhd, vhdx, dmg; compressed, or in a tar, OVA or zip), a block device, `-`
for standard input, an http or https URL, or an NbdAddress; the target an NbdAddress, a block device or a file. The
keywords are described in Options. Only content is sent: what is zero on both sides stays as it is, and holes are made
where the target holds something else.
"""

from cloudmanager.client.deploy.deployment import deploy
from cloudmanager.client.deploy.errors import DeployError
from cloudmanager.client.deploy.options import (
    BadRange,
    DeployOptions,
    Format,
    Growth,
    Options,
    Phase,
    Progress,
    Result,
    Route,
)

__all__ = [
    "BadRange",
    "DeployError",
    "DeployOptions",
    "Format",
    "Growth",
    "Options",
    "Phase",
    "Progress",
    "Result",
    "Route",
    "deploy",
]
