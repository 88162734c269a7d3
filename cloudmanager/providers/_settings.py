"""The settings that all cloud providers have in common."""

from collections.abc import Collection, Mapping
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from cloudmanager.providers._block_devices import BlockDevices
from cloudmanager.providers._limiter import Limiter
from cloudmanager.providers._slots import Slots


class CloudSettings(BaseModel):
    """Bounds, and where this machine's devices are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dev_root: Path = Field(Path("/dev"), description="Where the device nodes are.")
    sys_root: Path = Field(Path("/sys"), description="Where the kernel's sysfs is.")
    lock_dir: Path = Field(
        Path("/run/lock/cloudmanager"),
        description="Directory of the lock that all cloudmanagers of this machine choose device names or LUNs under.",
    )
    max_disks: int = Field(
        0,
        ge=0,
        description="How many disks this machine may have attached, as the cloud counts them: Azure without the boot "
        "disk, the others with it. 0: as many as the cloud allows.",
    )
    request_timeout_seconds: float = Field(30, gt=0, description="How long one request to the cloud may take.")
    metadata_timeout_seconds: float = Field(2, gt=0, description="How long the metadata server may take to answer.")
    attach_timeout_seconds: float = Field(
        180, gt=0, description="How long the cloud may take to attach a disk; then the service retries later."
    )
    detach_timeout_seconds: float = Field(180, gt=0, description="How long the cloud may take to detach a disk.")
    device_timeout_seconds: float = Field(
        20,
        ge=0,
        description="How long an attached disk's device may take to appear; then the service looks again later.",
    )
    copy_timeout_seconds: float = Field(
        14400, gt=0, description="How long the cloud may take to make a snapshot, or a disk from one."
    )
    poll_seconds: float = Field(2, gt=0, description="Longest pause between two looks at an operation that runs.")
    look_seconds: float = Field(
        60,
        ge=0,
        description="How old the cloud's description of this machine may be at the regular look at attached disks. "
        "The kernel is looked at each time; a device that has changed leads to a new look at the cloud.",
    )
    retry_attempts: int = Field(
        4, ge=1, description="How often a request is made that the cloud throttles or cannot serve right now."
    )

    @property
    def block_devices(self) -> BlockDevices:
        return BlockDevices(self.dev_root, self.sys_root)

    def limiter(self, *, refills: Mapping[str, float] | None = None, blocking: Collection[str] = ()) -> Limiter:
        """One for each provider instance."""
        return Limiter(
            attempts=self.retry_attempts,
            timeout=self.request_timeout_seconds,
            refills=refills,
            blocking=blocking,
        )

    def slots(self, machine: str, rest: timedelta = timedelta(minutes=5)) -> Slots:
        """The device names or LUNs of a machine, named by its full id in the cloud."""
        return Slots(self.lock_dir, machine, rest)
