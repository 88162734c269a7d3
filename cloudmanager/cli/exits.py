"""How a command ends."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes, for scripts."""

    OK = 0
    ERROR = 1
    """The command could not do its work; standard error says why."""
    USAGE = 2
    """The command line itself is wrong."""
    PROBLEM = 3
    """`doctor` or `store check` found something that must be fixed."""
    BAD_RANGES = 4
    """`deploy --skip-bad`: the image is in place except for ranges that could not be read."""
    SIGNALLED = 128
    """`run`: this plus the number of the signal that ended the command."""
    INTERRUPTED = 130
    """Ctrl-C or SIGTERM."""
