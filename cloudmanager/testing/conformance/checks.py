"""What all checks have in common: a harness of their own, and the steps that they begin with."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from cloudmanager.core.errors import CloudManagerError, ProviderFailure
from cloudmanager.core.model import CONFIRMED, Access, Attachment, AttachPlan, Device, Disk, DiskId
from cloudmanager.core.plugins import Provider
from cloudmanager.testing.conformance.harness import Harness

_SAMPLE_BYTES = 4096
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
class Committed:
    """A plan in a store: what its attach keeps is there for the next process, as in the core."""

    _made: AttachPlan
    _file: Path

    @property
    def plan(self) -> AttachPlan:
        return replace(self._made, proof=self._file.read_text() if self._file.exists() else "")

    @property
    def ours(self) -> Attachment:
        """What the core would have detached."""
        return self.plan.attachment()

    def attach(self, provider: Provider) -> Attachment:
        done = provider.attach(self.plan, self._keep)
        if done.request_id and not self.plan.proof:
            self._keep(CONFIRMED)
        return replace(done, proof=self.plan.proof)

    def _keep(self, proof: str) -> None:
        unfinished = self._file.with_suffix(".new")
        unfinished.write_text(proof)
        unfinished.replace(self._file)


@dataclass(frozen=True)
class Attached:
    """A disk that was attached as planned."""

    disk: Disk
    plan: AttachPlan
    attachment: Attachment


def commit(harness: Harness, made: AttachPlan) -> Committed:
    return Committed(made, harness.directory / f"plan-{made.request_id}")


def describe(provider: Provider, native: str) -> Disk:
    return provider.describe(DiskId(provider.name, native))


def plan(provider: Provider, native: str, access: Access = Access.READ_WRITE) -> AttachPlan:
    return provider.plan_attach(describe(provider, native), access)


def attach(provider: Provider, native: str, access: Access = Access.READ_WRITE) -> Attached:
    """What comes of it has the proof that the store would have by then."""
    made = plan(provider, native, access)
    kept = [""]
    done = provider.attach(made, kept.append)
    proof = kept[-1] or (CONFIRMED if done.request_id else "")
    return Attached(made.disk, replace(made, proof=proof), replace(done, proof=proof))


def assert_is(device: object, harness: Harness, disk: str) -> None:
    """The device has the bytes of the disk: it is the right one."""
    assert isinstance(device, Device), f"no device, but {device!r}"
    with Path(device.path).open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), _SAMPLE_BYTES, 0) == harness.content(disk), f"{device.path} is another disk"


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
