"""Amazon EBS: volumes attached to the EC2 instance that cloudmanager runs on.

boto3 is imported when a provider is built, not before.
"""

from collections.abc import Iterable

from cloudmanager.core.hookspecs import hookimpl
from cloudmanager.providers.aws.provider import AwsProvider

__all__ = ["AwsProvider", "register_providers"]


@hookimpl
def register_providers() -> Iterable[type]:
    return [AwsProvider]
