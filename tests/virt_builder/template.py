"""A template of our own for virt-builder, and the page's commands that make it and use it."""

import re
from pathlib import Path

from tests.checkout import ROOT

PAGE = ROOT / "docs/deploying-machines.md"
SYSTEM = {
    "etc/os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "etc/debian_version": "12.0\n",
    "etc/fstab": "LABEL=root / ext4 defaults 0 1\n",
    "etc/hostname": "template\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
}
"""What libguestfs looks for in a Debian."""
EMPTY = ("bin", "boot", "dev", "proc", "root", "sys", "tmp", "usr/bin", "var/log")


def command_with(arguments: str) -> str:
    """The block of shell on the page that has these words."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (found,) = [block for block in blocks if arguments in block]
    return str(found)


def make_system(root: Path) -> None:
    """The directory that the template is made of."""
    for name in EMPTY:
        (root / name).mkdir(parents=True)
    for name, text in SYSTEM.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)


def environment_for_virt_builder(home: Path) -> dict[str, str]:
    """It finds no template but ours, and emulates its machine in software, as everywhere."""
    return {
        "HOME": str(home),
        "VIRT_BUILDER_DIRS": "/nowhere",
        "XDG_CONFIG_DIRS": "/nowhere",
        "LIBGUESTFS_BACKEND": "direct",
        "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",
        "LIBGUESTFS_CACHEDIR": str(home),
    }
