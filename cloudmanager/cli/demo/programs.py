"""Other people's programs, run to their end."""

import subprocess

from cloudmanager.core.errors import CloudManagerError

TIMEOUT_SECONDS = 30


def run_program(*command: str) -> bytes:
    """Its standard output. Raises CloudManagerError with its standard error if it fails or takes too long."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_SECONDS, check=True
        )
    except subprocess.TimeoutExpired:
        raise CloudManagerError(f"{command[0]} did not end in {TIMEOUT_SECONDS} s.") from None
    except subprocess.CalledProcessError as error:
        complaint = error.stderr.decode(errors="replace").strip()
        raise CloudManagerError(f"{command[0]} failed with code {error.returncode}: {complaint}") from error
    return done.stdout
