"""cloudmanager testing cloud"""

import signal
import subprocess
import tempfile
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

from cloudmanager.cli.block_devices import require_block_devices
from cloudmanager.cli.extras import extra
from cloudmanager.core.errors import CloudManagerError

EXTRAS = {"gce": "gce", "ec2": "aws", "azure": "azure"}


def run(kind: str, directory: Path | None, *, port: int, pace: float) -> None:
    """Returns at SIGINT, SIGTERM or SIGHUP, after it has cleaned up. Raises SetupError, CloudManagerError."""
    require_block_devices()
    with extra(EXTRAS[kind]):
        from cloudmanager.testing import cloud

        import_module(cloud.KINDS[kind])
    # From here on they end the emulator, and not the program in the middle of what must be undone.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    with ExitStack() as cleanup:
        if directory is None:
            directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix=f"cloudmanager-{kind}-")))
        try:
            cloud.run(kind, directory, port=port, pace=pace)
        except OSError as error:
            raise CloudManagerError(f"The emulated cloud cannot run in {directory} at port {port}: {error}") from error
        except subprocess.CalledProcessError as error:
            complaint = error.stderr.decode() if isinstance(error.stderr, bytes) else error.stderr
            raise CloudManagerError(f"{error.cmd[0]} failed: {complaint.strip()}") from error
