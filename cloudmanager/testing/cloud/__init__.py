"""Emulated clouds that speak the real protocols and attach real block devices. `run` starts one from a command line."""

from pathlib import Path

KINDS = {
    "gce": "cloudmanager.testing.cloud.gce",
    "ec2": "cloudmanager.testing.cloud.ec2",
    "azure": "cloudmanager.testing.cloud.azure",
}
"""Each module has a class `Emulation`: an `Emulator`."""


def run(kind: str, directory: Path, *, port: int = 0, pace: float = 1.0) -> None:
    """Runs the emulated cloud `kind` in `directory` until SIGINT, SIGTERM or SIGHUP, and prints how to use it.

    `pace` 1.0 takes the cloud's time for everything, 0.0 none. Raises ValueError for an unknown kind.
    """
    from cloudmanager.testing.cloud.foreground import run_in_foreground  # noqa: PLC0415 - an SDK may be missing

    if kind not in KINDS:
        raise ValueError(f"there is no emulated cloud {kind!r}: choose one of {', '.join(KINDS)}")
    run_in_foreground(KINDS[kind], directory, port=port, pace=pace)
