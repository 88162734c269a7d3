"""Azure managed disks, attached with azure-mgmt-compute to the virtual machine that this runs on.

The SDK is imported when a provider is built, not before.
"""

from collections.abc import Iterable

from cloudmanager.core.hookspecs import hookimpl
from cloudmanager.providers.azure.provider import AzureProvider

__all__ = ["AzureProvider", "register_providers"]


@hookimpl
def register_providers() -> Iterable[type]:
    return [AzureProvider]
