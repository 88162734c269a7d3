"""Sizes of virtual machines, with the number of data disks that each takes (Azure's published tables)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    cores: int
    memory_mb: int
    max_data_disks: int


SIZES = {
    "Standard_B1s": Size(1, 1024, 2),
    "Standard_D2s_v5": Size(2, 8192, 4),
    "Standard_D4s_v5": Size(4, 16384, 8),
    "Standard_D8s_v5": Size(8, 32768, 16),
    "Standard_D16s_v5": Size(16, 65536, 32),
    "Standard_E8bds_v5": Size(8, 65536, 16),
    "Standard_M128s": Size(128, 2097152, 64),
}
DEFAULT_SIZE = "Standard_D16s_v5"


def shown(name: str) -> dict[str, object]:
    size = SIZES[name]
    return {
        "name": name,
        "numberOfCores": size.cores,
        "osDiskSizeInMB": 1047552,
        "resourceDiskSizeInMB": 0,
        "memoryInMB": size.memory_mb,
        "maxDataDiskCount": size.max_data_disks,
    }
