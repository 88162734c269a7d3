"""What all checks have in common: a harness of their own, and the steps that they begin with."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from cloudmanager.core.errors import CloudManagerError, ProviderFailure
from cloudmanager.core.model import Access, Attachment, AttachPlan, Device, Disk, DiskId
from cloudmanager.core.plugins import Provider
from cloudmanager.testing.conformance.harness import Harness

SAMPLE_BYTES = 4096
SLACK_SECONDS = 5.0
"""What a bounded wait may take beyond its bound on a busy machine."""


class Checks:
    """A subclass of a subclass names its harness; its checks get a new one each."""

    harness_type: ClassVar[type[Harness]]

    @pytest.fixture
    def harness(self, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Harness]:
        reason = self.harness_type.does_not_apply.get(request.node.originalname)
        if reason is not None:
            pytest.skip(f"declared not to apply: {reason}")
        with self.harness_type(tmp_path) as harness:
            yield harness


@dataclass(frozen=True)
class Attached:
    """A disk that was attached as planned."""

    disk: Disk
    plan: AttachPlan
    attachment: Attachment


def describe(provider: Provider, native: str) -> Disk:
    return provider.describe(DiskId(provider.name, native))


def plan(provider: Provider, native: str, access: Access = Access.READ_WRITE) -> AttachPlan:
    return provider.plan_attach(describe(provider, native), access)


def attach(provider: Provider, native: str, access: Access = Access.READ_WRITE) -> Attached:
    made = plan(provider, native, access)
    return Attached(made.disk, made, provider.attach(made))


def assert_is(device: object, harness: Harness, disk: str) -> None:
    """The device has the bytes of the disk: it is the right one."""
    assert isinstance(device, Device), f"no device, but {device!r}"
    with Path(device.path).open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), SAMPLE_BYTES, 0) == harness.content(disk), f"{device.path} is another disk"


def assert_attached_here(harness: Harness, disk: str) -> None:
    assert harness.node_name in harness.holders(disk)


def assert_free(harness: Harness, disk: str) -> None:
    assert harness.node_name not in harness.holders(disk), f"{disk} is still attached"


@contextmanager
def an_error() -> Iterator[pytest.ExceptionInfo[CloudManagerError]]:
    """One of cloudmanager's own errors, which the provider chose: not one that it let through."""
    with pytest.raises(CloudManagerError) as caught:
        yield caught
    assert not isinstance(caught.value, ProviderFailure), "an error left the provider that it did not translate"


@contextmanager
def everything_logged() -> Iterator[list[str]]:
    """All log lines of all loggers, at the most talkative level."""
    lines: list[str] = []
    handler = logging.Handler(logging.DEBUG)
    handler.emit = lambda record: lines.append(_line(record))  # type: ignore[method-assign] # a handler of one line
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


def _line(record: logging.LogRecord) -> str:
    return logging.Formatter().format(record)
