"""An emulated Compute Engine. Its attached disks are real block devices in a guest's own /dev and /sys."""

from cloudmanager.testing.cloud.gce.emulation import Emulation

__all__ = ["Emulation"]
