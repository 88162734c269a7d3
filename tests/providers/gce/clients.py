"""google-cloud-compute, pointed at an emulator, in the words of the tests."""

import uuid
from typing import Any, cast

from google.api_core.client_options import ClientOptions
from google.cloud import compute_v1
from google.oauth2.service_account import Credentials

from cloudmanager.testing.cloud.gce import Emulation
from cloudmanager.testing.cloud.gce.emulation import HOME, PROJECT
from cloudmanager.testing.cloud.gce.state import UNIVERSE

SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]


class Clients:
    """Everything in the home project and zone unless said otherwise; no retries."""

    def __init__(self, cloud: Emulation) -> None:
        self._options = ClientOptions(api_endpoint=cloud.url, universe_domain=UNIVERSE)
        read: Any = Credentials.from_service_account_file  # without types
        self._credentials: Credentials = read(str(cloud.credentials_file), scopes=SCOPES)
        self.instances = self._make(compute_v1.InstancesClient)
        self.disks = self._make(compute_v1.DisksClient)
        self.snapshots = self._make(compute_v1.SnapshotsClient)
        self.zone_operations = self._make(compute_v1.ZoneOperationsClient)
        self.global_operations = self._make(compute_v1.GlobalOperationsClient)

    def attach(self, source: str, instance: str = "worker-1", **fields: Any) -> compute_v1.Operation:
        query = {name: fields.pop(name) for name in ("request_id", "force_attach") if name in fields}
        disk = compute_v1.AttachedDisk(source=source, **fields)
        request = compute_v1.AttachDiskInstanceRequest(
            project=PROJECT, zone=HOME, instance=instance, attached_disk_resource=disk, **query
        )
        return cast(compute_v1.Operation, self.instances.attach_disk_unary(request=request, retry=None))

    def detach(self, device_name: str, instance: str = "worker-1") -> compute_v1.Operation:
        request = compute_v1.DetachDiskInstanceRequest(
            project=PROJECT, zone=HOME, instance=instance, device_name=device_name
        )
        return cast(compute_v1.Operation, self.instances.detach_disk_unary(request=request, retry=None))

    def wait(self, operation: compute_v1.Operation) -> compute_v1.Operation:
        name = operation.name
        if operation.zone:
            done = self.zone_operations.wait(project=PROJECT, zone=HOME, operation=name, retry=None)
        else:
            done = self.global_operations.wait(project=PROJECT, operation=name, retry=None)
        return cast(compute_v1.Operation, done)

    def device_names(self, instance: str = "worker-1") -> list[str]:
        found = self.instances.get(project=PROJECT, zone=HOME, instance=instance, retry=None)
        return [disk.device_name for disk in found.disks]

    def users(self, disk: str) -> list[str]:
        name = disk.rpartition("/")[2]
        found = self.disks.get(project=PROJECT, zone=HOME, disk=name, retry=None)
        return [user.rpartition("/")[2] for user in found.users]

    def _make(self, kind: type[Any]) -> Any:
        return kind(credentials=self._credentials, client_options=self._options)


def new_request_id() -> str:
    return str(uuid.uuid4())
