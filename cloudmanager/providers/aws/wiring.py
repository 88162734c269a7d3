"""The volumes that one configured provider can see, and the machine that it runs on."""

import logging
import threading
from collections.abc import Sequence
from functools import cached_property

from cloudmanager.core.errors import AccessDenied, CloudManagerError, DiskNotFound
from cloudmanager.core.model import Access, Disk, DiskId, Snapshot
from cloudmanager.providers.aws.api import Ec2, Regions
from cloudmanager.providers.aws.attaching import Attaching
from cloudmanager.providers.aws.copies import Copies
from cloudmanager.providers.aws.detaching import Detaching
from cloudmanager.providers.aws.device_name import is_root
from cloudmanager.providers.aws.facts import SECTOR_BYTES, EbsLimits, Volume, VolumeSnapshot
from cloudmanager.providers.aws.listing import Listing
from cloudmanager.providers.aws.locating import Locating
from cloudmanager.providers.aws.machine import Machine
from cloudmanager.providers.aws.machine_view import MachineView
from cloudmanager.providers.aws.resource_id import ResourceId
from cloudmanager.providers.aws.settings import AwsSettings

log = logging.getLogger(__name__)


class Parts:
    """The machine's identity is asked for once, when it is first needed."""

    def __init__(self, provider: str, settings: AwsSettings) -> None:
        self._provider = provider
        self._settings = settings
        self._regions = Regions(settings)
        self._machine: Machine | None = None
        self._lock = threading.Lock()
        self._ebs_limits: EbsLimits | None = None

    @property
    def machine(self) -> Machine:
        """Raises ConfigurationError when it cannot be known."""
        with self._lock:
            if self._machine is None:
                self._machine = Machine.learn(self._settings)
            return self._machine

    @property
    def home(self) -> Ec2:
        """EC2 in the machine's region."""
        return self._regions[self.machine.region]

    @property
    def scope(self) -> tuple[str, ...]:
        """The regions in scope, the machine's own first if it is among them."""
        home = self.machine.region
        return tuple(sorted(self._settings.regions or (home,), key=lambda region: region != home))

    @cached_property
    def attaching(self) -> Attaching:
        return Attaching(self.home, self.view, self.detaching, self._settings, self.machine, self.ebs_limits)

    @cached_property
    def detaching(self) -> Detaching:
        return Detaching(self.home, self.view, self._settings, self.machine)

    @cached_property
    def view(self) -> MachineView:
        return MachineView(self.home, self.machine, self._settings.poll_seconds)

    @cached_property
    def locating(self) -> Locating:
        return Locating(self.view, self._settings, self.machine)

    @cached_property
    def listing(self) -> Listing:
        return Listing(self._regions, self.scope)

    def ebs_limits(self) -> EbsLimits:
        """Of this machine's type, which EC2 is asked for once. Unknown where it does not say: nothing depends on it."""
        if self._ebs_limits is None:
            try:
                self._ebs_limits = self.read_ebs_limits()
            except AccessDenied as error:
                log.warning("The limits of %s are unknown: %s", self.machine.instance_type, error.detail)
                self._ebs_limits = EbsLimits()
            except CloudManagerError as error:
                log.info("The limits of %s are unknown for now: %s", self.machine.instance_type, error.detail)
                return EbsLimits()
        return self._ebs_limits

    def read_ebs_limits(self) -> EbsLimits:
        """As EC2 says now. Raises AccessDenied and others."""
        name = self.machine.instance_type
        return self.home.ebs_limits(name) if name else EbsLimits()

    def copies(self, region: str) -> Copies:
        return Copies(self._regions[region], self._settings, self.machine)

    def resolve(self, disk_id: DiskId, kind: str = "vol") -> ResourceId:
        """With its region: the machine's own where none is said. Raises InvalidDiskId; makes no call to EC2."""
        id = ResourceId.parse(disk_id, kind)
        return ResourceId(id.id, id.region or self.machine.region)

    def volume(self, disk_id: DiskId) -> Volume:
        """Looks in every region in scope for a volume whose id names none. Raises InvalidDiskId, DiskNotFound."""
        id = ResourceId.parse(disk_id)
        if id.region and id.region not in {*self.scope, self.machine.region}:
            raise DiskNotFound(f"{disk_id} is in {id.region}: add that to this provider's regions.")
        volume = self._found(id.id, [id.region] if id.region else self.scope)
        if volume.state.is_gone:
            raise DiskNotFound(f"{disk_id} has been deleted.")
        return volume

    def _found(self, volume_id: str, regions: Sequence[str]) -> Volume:
        first, *others = regions
        try:
            return self._regions[first].volume(volume_id)
        except DiskNotFound:
            if not others:
                raise
            return self._found(volume_id, others)

    def disk(self, volume: Volume) -> Disk:
        id = ResourceId(volume.id, volume.region)
        here = volume.on(self.machine.instance_id)
        is_boot = here is not None and is_root(here.device)
        return Disk(
            id=DiskId(self._provider, id.native(self.machine.region)),
            canonical_id=id.canonical,
            size_bytes=volume.size_bytes,
            logical_sector_bytes=SECTOR_BYTES,
            location=volume.zone,
            description=volume.name,
            labels=dict(volume.tags),
            access=frozenset(Access) - ({Access.READ_WRITE} if is_boot else set()),
            held_by=volume.elsewhere(self.machine.instance_id),
            created_at=volume.created_at,
            incarnation=volume.id,
            is_attached=here is not None,
            is_boot=is_boot,
        )

    def snapshot(self, made: VolumeSnapshot) -> Snapshot:
        id = ResourceId(made.id, made.region)
        return Snapshot(DiskId(self._provider, id.native(self.machine.region)), made.size_bytes, made.region)
