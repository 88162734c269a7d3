"""Records as Azure shows them."""

from datetime import datetime

from cloudmanager.testing.cloud.azure.state import GIB, DataDisk, Group, Inventory, Machine, ManagedDisk, Snapshot

Shown = dict[str, object]


def machine(record: Machine, inventory: Inventory, *, is_expanded: bool = False) -> Shown:
    view = {"instanceView": _instance_view(record)} if is_expanded else {}
    return {
        "name": record.id.name,
        "id": str(record.id),
        "type": record.id.type,
        "location": record.place.region,
        **record.place.zones,
        "tags": record.tags,
        "etag": record.etag,
        "properties": {
            "hardwareProfile": {"vmSize": record.size},
            "provisioningState": record.provisioning_state,
            "vmId": record.vm_id,
            "storageProfile": storage_profile(record, inventory),
            "timeCreated": time(record.created),
            **view,
        },
    }


def _instance_view(record: Machine) -> Shown:
    power, words = ("running", "VM running") if record.is_running else ("deallocated", "VM deallocated")
    return {
        "statuses": [
            {"code": "ProvisioningState/succeeded", "level": "Info", "displayStatus": "Provisioning succeeded"},
            {"code": f"PowerState/{power}", "level": "Info", "displayStatus": words},
        ]
    }


def storage_profile(record: Machine, inventory: Inventory) -> Shown:
    return {
        "osDisk": {
            "osType": "Linux",
            "name": f"{record.id.name}_OsDisk",
            "createOption": "FromImage",
            "caching": "ReadWrite",
            "deleteOption": "Delete",
            "diskSizeGB": 30,
            **({"managedDisk": {"id": record.os_disk.shouted}} if record.os_disk else {}),
        },
        "dataDisks": [_entry(entry, inventory) for entry in record.data_disks],
        "diskControllerType": record.controller.value,
    }


def _entry(entry: DataDisk, inventory: Inventory) -> Shown:
    known = inventory.disks.get(entry.disk.key)
    storage = {"storageAccountType": known.sku} if known else {}
    size = {"diskSizeGB": gigabytes(known.size_bytes)} if known else {}
    return {
        "lun": entry.lun,
        "name": entry.disk.name,
        "createOption": "Attach",
        "caching": entry.caching,
        "writeAcceleratorEnabled": False,
        "managedDisk": {**storage, "id": entry.disk.shouted},
        "deleteOption": entry.delete_option,
        "toBeDetached": entry.to_be_detached,
        **size,
    }


def disk(record: ManagedDisk) -> Shown:
    shares = {"maxShares": record.max_shares} if record.max_shares > 1 else {}
    return {
        "name": record.id.name,
        "id": record.id.shouted,
        "type": record.id.type,
        "location": record.place.region,
        **record.place.zones,
        "tags": record.tags,
        "sku": {"name": record.sku, "tier": record.sku.partition("_")[0]},
        **_owners(record),
        "properties": {
            "creationData": record.creation_data,
            "diskSizeGB": gigabytes(record.size_bytes),
            "diskSizeBytes": record.size_bytes,
            "timeCreated": time(record.created),
            "provisioningState": record.provisioning_state,
            "diskState": record.state,
            "uniqueId": record.unique_id,
            "networkAccessPolicy": "AllowAll",
            **({"LastOwnershipUpdateTime": time(record.owned_since)} if record.owned_since else {}),
            **shares,
            **({"osType": record.os_type} if record.os_type else {}),
        },
    }


def _owners(record: ManagedDisk) -> Shown:
    """A disk that may be shared names its machines in a list, with one of them in `managedBy` too."""
    if not record.owners:
        return {}
    extended = {"managedByExtended": [owner.shouted for owner in record.owners]} if record.max_shares > 1 else {}
    return {"managedBy": record.owners[0].shouted, **extended}


def snapshot(record: Snapshot) -> Shown:
    return {
        "name": record.id.name,
        "id": str(record.id),
        "type": record.id.type,
        "location": record.place.region,
        "tags": record.tags,
        "sku": {"name": "Standard_ZRS", "tier": "Standard"},
        "properties": {
            "creationData": record.creation_data,
            "diskSizeGB": gigabytes(record.size_bytes),
            "diskSizeBytes": record.size_bytes,
            "timeCreated": time(record.created),
            "provisioningState": record.provisioning_state,
            "diskState": "Unattached",
            "incremental": record.is_incremental,
            "completionPercent": record.completion_percent,
            "uniqueId": record.unique_id,
        },
    }


def group(record: Group, subscription: str) -> Shown:
    return {
        "id": f"/subscriptions/{subscription}/resourceGroups/{record.name}",
        "name": record.name,
        "type": "Microsoft.Resources/resourceGroups",
        "location": record.location,
        "properties": {"provisioningState": "Succeeded"},
    }


def gigabytes(size_bytes: int) -> int:
    """Azure counts disks in GiB, rounded up, 1 at least."""
    return max(1, -(-size_bytes // GIB))


def time(moment: datetime) -> str:
    return moment.isoformat()
