"""What can go wrong between a task's input files and their bytes.

ClientError
└── PreparationFailed   every disk of the task failed: `failures` says which and why (in `prepared`)
    DescriptorError     the file that describes a disk cannot be understood
    DiskNotNamed        what it says fits no disk, or several
"""

from cloudmanager.client.errors import ClientError


class DescriptorError(ClientError):
    """A task's input file says that it describes a disk, and does not."""


class DiskNotNamed(ClientError):
    """The service knows no disk of that description, or more than one."""
