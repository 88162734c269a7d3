"""Whether a disk is still the one that was claimed: a name can be reused, an incarnation never is."""

import logging
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from cloudmanager.core.errors import DiskReplaced, ImageError
from cloudmanager.core.model import Device, Disk

if TYPE_CHECKING:
    from cloudmanager.core.plugins import Provider

log = logging.getLogger(__name__)


def is_replaced(claimed: Disk, incarnation: str, created_at: datetime | None = None) -> bool:
    """Whether what has the disk's name now is another disk, for certain.

    What an older version has stored has no incarnation; its source's time of creation identifies it as well.
    Where neither is known, nothing is certain.
    """
    if claimed.incarnation and incarnation:
        return claimed.incarnation != incarnation
    if claimed.created_at and created_at:
        return claimed.created_at != created_at
    return False


def refuse_replaced(claimed: Disk, incarnation: str, created_at: datetime | None = None) -> None:
    """Raises DiskReplaced."""
    if is_replaced(claimed, incarnation, created_at):
        was, now = claimed.incarnation or claimed.created_at, incarnation or created_at
        raise DiskReplaced(
            f"The disk that was claimed as {claimed.id} ({was}) is gone, and another one ({now}) has its name now. "
            "Nothing of that one was read or written. Ask again to get it."
        )


def learned(claimed: Disk, device: Device) -> Disk:
    """The disk with its incarnation, where an older version has stored it without and it is certain which it is.

    The provider has compared the time of creation then; where that is not known, the disk stays known by its name.
    """
    if claimed.incarnation or not device.incarnation:
        return claimed
    if claimed.created_at is None:
        log.warning("%s was claimed by an older version: it is not known whether it was replaced since", claimed.id)
        return claimed
    return replace(claimed, incarnation=device.incarnation)


def refuse_other(provider: "Provider", claimed: Disk) -> None:
    """Asks the provider what has the disk's name now. Raises DiskReplaced, and what `describe` raises.

    An image that would not be exported as it is now may still be the one that was claimed: a client may have written an
    archive onto a raw disk. That a file is another one is then seen by `locate`, which has it open.
    """
    try:
        found = provider.describe(claimed.id)
    except ImageError:
        return
    refuse_replaced(claimed, found.incarnation, found.created_at)


def refuse_device_of_other(provider: "Provider", claimed: Disk, device: Device) -> None:
    """As `refuse_other`, for a device that was just located: no provider is asked where `locate` itself has looked."""
    if device.incarnation:
        refuse_replaced(claimed, device.incarnation)
    elif claimed.incarnation:
        refuse_other(provider, claimed)
