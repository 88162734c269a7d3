"""How many disks the cloud attaches to this machine."""

from dataclasses import dataclass

from cloudmanager.core.errors import AttachLimit
from cloudmanager.core.model import Finding, Severity


@dataclass(frozen=True)
class Capacity:
    """Counted as the cloud counts: with the boot disk or without it."""

    used: int
    limit: int | None
    """None: not known, so the cloud itself refuses what is too many."""
    source: str
    """Who says so: `m5.large`, `max_disks`; or why it is not known."""

    @property
    def is_full(self) -> bool:
        return self.limit is not None and self.used >= self.limit

    def refuse_full(self, disk: str) -> None:
        """Raises AttachLimit: no request is made that cannot succeed."""
        if self.is_full:
            raise AttachLimit(
                f"{disk} is not attached: this machine has {self.used} of the {self.limit} disks that {self.source} "
                "allows. Detach one that is not needed."
            )

    def finding(self, subject: str) -> Finding:
        """For the doctor."""
        if self.limit is None:
            return Finding(subject, Severity.WARNING, f"{self.used} disks attached; the limit is unknown", self.source)
        seen = f"{self.used} of {self.limit} disks attached ({self.source})"
        if self.is_full:
            return Finding(subject, Severity.WARNING, seen, "Detach a disk, use a larger machine, or raise max_disks.")
        return Finding(subject, Severity.OK, seen)
