"""An emulated Amazon EC2: the actions that disks need, and the instance metadata service."""

from cloudmanager.testing.cloud.ec2.accounts import ACCOUNTS, HOME_ACCOUNT, HOME_ZONE
from cloudmanager.testing.cloud.ec2.emulation import Emulation

__all__ = ["ACCOUNTS", "HOME_ACCOUNT", "HOME_ZONE", "Emulation"]
