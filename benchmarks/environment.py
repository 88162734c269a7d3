"""The machine that was measured on, and the programs."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

PROGRAMS = {
    "qemu-nbd": ("qemu-nbd", "--version"),
    "libnbd": ("nbdcopy", "--version"),
    "nbdkit": ("nbdkit", "--version"),
    "fio": ("fio", "--version"),
}
NUMBER = re.compile(r"\d+(?:\.\d+)+")


def describe() -> dict[str, str]:
    return {
        "processor": f"{os.cpu_count()} x {_processor()}",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": f"Linux {_number(platform.release())}",
        "python": platform.python_version(),
        **{name: _version(command) for name, command in PROGRAMS.items() if shutil.which(command[0])},
    }


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    kind = found[1] if found else platform.machine()
    return f"{kind}, a virtual machine" if re.search(r"^flags.*\bhypervisor\b", text, re.MULTILINE) else kind


def _version(command: tuple[str, ...]) -> str:
    return _number(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _number(text: str) -> str:
    found = NUMBER.search(text)
    return found[0] if found else text.strip()
