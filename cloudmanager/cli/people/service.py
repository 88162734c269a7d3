"""The service that a person asks."""

from cloudmanager.client import CloudManager

_PATIENCE_SECONDS = 3


def service() -> CloudManager:
    """For one answer: a person would rather hear soon that there is none."""
    return CloudManager(patience_seconds=_PATIENCE_SECONDS)


def lasting_service() -> CloudManager:
    """For as long as a disk is used: once it has answered, it may be away for a while. Raises Unreachable."""
    manager = CloudManager()
    manager.health()
    return manager
