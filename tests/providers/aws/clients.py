"""boto3 clients and providers of an emulated EC2."""

from collections.abc import Callable
from functools import cache
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from cloudmanager.core.model import Access, Attachment, AttachPlan, Disk, DiskId
from cloudmanager.core.plugins import Plugins, Provider
from cloudmanager.providers import aws
from cloudmanager.testing.cloud.ec2 import ACCOUNTS, Emulation

Client = Any  # boto3 makes its clients at run time
HOME_KEY, OTHER_KEY = ACCOUNTS


def make_client(cloud: Emulation, service: str = "ec2", *, region: str = "us-east-1", key: str = HOME_KEY) -> Client:
    """It makes every call once."""
    config = Config(retries={"total_max_attempts": 1}, read_timeout=10)
    return _session(key).client(service, region_name=region, endpoint_url=cloud.url, config=config)


@cache
def _session(key: str) -> boto3.Session:
    """Kept, because it keeps the model of EC2, which takes long to read."""
    secret = "anything"
    return boto3.Session(aws_access_key_id=key, aws_secret_access_key=secret)


def refused(call: Callable[[], object]) -> tuple[str, str]:
    """Code and message of the error that a call ends with."""
    with pytest.raises(ClientError) as caught:
        call()
    return caught.value.response["Error"]["Code"], caught.value.response["Error"]["Message"]


QUICK: dict[str, object] = {
    "attach_timeout_seconds": 0.6,
    "detach_timeout_seconds": 0.6,
    "device_timeout_seconds": 0.6,
    "copy_timeout_seconds": 0.6,
    "metadata_timeout_seconds": 2.0,
    "request_timeout_seconds": 5,
    "poll_seconds": 0.05,
    "retry_attempts": 1,
}


def make_provider(cloud: Emulation, instance: str = "worker-1", name: str = "aws", **settings: object) -> Provider:
    """A provider as a service that just started has it."""
    plugins = Plugins([("aws", aws)])
    plugins.configure({name: {**cloud.provider_settings(instance), **QUICK, **settings}})
    return plugins[name]


def describe(provider: Provider, native: str) -> Disk:
    return provider.describe(DiskId(provider.name, native))


def plan(provider: Provider, native: str) -> AttachPlan:
    return provider.plan_attach(describe(provider, native), Access.READ_ONLY)


def attach(provider: Provider, native: str) -> Attachment:
    return provider.attach(plan(provider, native))


def actions(cloud: Emulation) -> list[str]:
    """What EC2 was asked, in order."""
    return [call.operation for call in cloud.calls]


def changes(cloud: Emulation) -> list[str]:
    return [call.operation for call in cloud.calls.mutations()]
