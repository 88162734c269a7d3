"""Google Compute Engine's disks, attached with google-cloud-compute to the instance that this runs on.

The SDK is imported when a provider is built, not before.
"""

from collections.abc import Iterable

from cloudmanager.core.hookspecs import hookimpl
from cloudmanager.providers.gce.provider import GceProvider

__all__ = ["GceProvider", "register_providers"]


@hookimpl
def register_providers() -> Iterable[type]:
    return [GceProvider]
