"""What this process may do."""

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

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


def check_privileges() -> Iterator[Finding]:
    yield _check_user()


def _check_user() -> Finding:
    if os.geteuid() != 0:
        return Finding(
            "user",
            Severity.WARNING,
            f"{_user_name()}, not root: image files that this user can read can be exported",
            "Block devices and cloud disks need root.",
        )
    effective = _effective_capabilities()
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


def _effective_capabilities() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)
