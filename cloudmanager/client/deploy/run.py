"""What the parts of one deployment share."""

from dataclasses import dataclass, field
from typing import TypeAlias

from cloudmanager.client.deploy.bad_ranges import BadRanges
from cloudmanager.client.deploy.copying import WorkerPool
from cloudmanager.client.deploy.ends import UNIT_BYTES, Source, Unit, covered, units_of
from cloudmanager.client.deploy.journal import Journal
from cloudmanager.client.deploy.local_target import LocalTarget
from cloudmanager.client.deploy.nbd_ends import NbdTarget
from cloudmanager.client.deploy.options import Options, Phase, Progress
from cloudmanager.client.deploy.stream import UNIT_BYTES as STREAM_UNIT_BYTES
from cloudmanager.client.deploy.verifying import Verification
from cloudmanager.client.service import UploadEndpoint
from cloudmanager.transfer.libnbd import Patience

AnyTarget: TypeAlias = NbdTarget | LocalTarget


@dataclass(frozen=True)
class Run:
    """An open source, an open target, and what is to happen between them."""

    source: Source
    target: AnyTarget
    journal: Journal
    options: Options
    pool: WorkerPool
    patience: Patience
    bad: BadRanges = field(default_factory=BadRanges)

    @property
    def is_stream(self) -> bool:
        return self.source.size_bytes is None

    @property
    def is_target_file(self) -> bool:
        """A file of this machine, which becomes a raw image."""
        return isinstance(self.target, LocalTarget) and not self.target.is_device

    @property
    def through(self) -> UploadEndpoint | None:
        """The service, where it may be used for the target's bytes."""
        through, target = self.options.through, self.target
        if through is None or not isinstance(target, NbdTarget) or target.writers == 1:
            return None
        return through if through.protects_as_well_as(target.address) else None

    def units(self, size_bytes: int) -> list[Unit]:
        """All units of an image of that size."""
        return units_of(covered(size_bytes, self.target.size_bytes), unit_bytes_of(self.source))

    def verification(self, units: list[Unit], known: dict[int, bytes]) -> Verification:
        return Verification(
            self.source,
            self.target,
            units,
            known,
            pool=self.pool,
            patience=self.patience,
            connections=self.options.connections,
            through=self.through,
        )

    def say(self, phase: Phase, remark: str = "") -> None:
        self.options.progress(Progress(phase, remark=remark))


def unit_bytes_of(source: Source) -> int:
    return STREAM_UNIT_BYTES if source.size_bytes is None else UNIT_BYTES
