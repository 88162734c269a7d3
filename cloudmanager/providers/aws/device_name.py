"""Device names: what the API calls an attachment by, and what a Xen guest makes of it."""

from collections.abc import Iterable

from cloudmanager.providers.aws.facts import Volume

NAMES = tuple(f"/dev/xvd{first}{second}" for first in "abcd" for second in "abcdefghijklmnopqrstuvwx")
"""Those of two letters, which people and machine images do not use: xvdaa to xvddx."""

_ROOT = frozenset({"/dev/sda1", "/dev/xvda"})
"""Reserved for the root volume: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/device_naming.html"""


def is_root(name: str) -> bool:
    return name in _ROOT


def taken_on(instance_id: str, volumes: Iterable[Volume]) -> set[str]:
    """The names that volumes have on an instance. No API reports the names that its image maps to other disks."""
    return {item.device for volume in volumes for item in volume.attachments if item.instance_id == instance_id}


def xen_number(name: str) -> int | None:
    """The number by which Xen's guest knows the disk, as in `/sys/bus/xen/devices/vbd-51792`.

    Only of `/dev/xvd…`: which number a `/dev/sd…` gets depends on how the instance is virtualised. The kernel derives
    its own name, `xvdf`, from the number (xen-vbd-interface(7); drivers/block/xen-blkfront.c).
    """
    letters = name.removeprefix("/dev/xvd")
    if letters == name or not 1 <= len(letters) <= 2 or not (letters.isascii() and letters.islower()):
        return None
    index = -1
    for letter in letters:
        index = (index + 1) * 26 + ord(letter) - ord("a")
    return 202 << 8 | index << 4 if index < 16 else 1 << 28 | index << 8
