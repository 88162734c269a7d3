"""Programs of the machine that do the work."""

import os
import shutil
import subprocess

from cloudmanager.client.access_methods.errors import AccessFailed
from cloudmanager.confined.qemu_nbd import without_graphs

TIMEOUT_SECONDS = 60.0
SYSTEM_PATH = ":/usr/sbin:/sbin"


def find(program: str) -> str | None:
    """The path of a program; also searches the sbin directories, which are not on the PATH of ordinary users."""
    return shutil.which(program, path=os.environ.get("PATH", os.defpath) + SYSTEM_PATH)


def run(program: str, *arguments: str | os.PathLike[str], accept: tuple[int, ...] = (0,)) -> str:
    """Its output. Raises AccessFailed with its standard error for an exit status that is not accepted."""
    command = [find(program) or program, *arguments]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise AccessFailed(f"{program} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise AccessFailed(f"{program} did not answer within {TIMEOUT_SECONDS:g} s") from error
    if done.returncode not in accept:
        message = without_graphs(done.stderr.strip(), "the disk")
        raise AccessFailed(f"{program}: {message or f'ended with status {done.returncode}'}")
    return done.stdout
