"""Who is at the shell, as the others are told."""

import getpass
import os

HOLDER_VARIABLE = "CLOUDMANAGER_HOLDER"


def named(given: str | None = None) -> str:
    """`given`, $CLOUDMANAGER_HOLDER, or user and host: a command's process number would tell nobody whom to ask."""
    return given or os.environ.get(HOLDER_VARIABLE) or f"{_user()}@{os.uname().nodename}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container a user may have no name
        return str(os.getuid())
