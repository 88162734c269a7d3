"""An emulated cloud as a program."""

import importlib
import json
import signal
import sys
from pathlib import Path

from cloudmanager.testing.cloud.emulator import Emulator

_INSTANCES = ("worker-1", "worker-2")
_ENDS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def run_in_foreground(module: str, directory: Path, *, port: int, pace: float) -> None:
    """Starts with two machines and a disk, prints what a provider needs, and ends at SIGINT, SIGTERM or SIGHUP."""
    make = importlib.import_module(module).Emulation
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)  # before there are threads: one of them would die of the signal
    with make(directory, port=port, pace=pace) as cloud:
        for instance in _INSTANCES:
            cloud.make_instance(instance)
        disk = cloud.make_disk("evidence-7")
        sys.stdout.write(instructions(cloud, disk))
        sys.stdout.flush()
        signal.sigwait(_ENDS)


def instructions(cloud: "Emulator[object]", disk: str) -> str:
    """What to put into a configuration file and the environment to use the emulator from its first machine."""
    instance = _INSTANCES[0]
    lines = [f"# An emulated {cloud.kind} answers at {cloud.url}; it has the disk {disk}."]
    lines += [f"export {name}={value}" for name, value in cloud.environment(instance).items()]
    lines += [f"[providers.{cloud.kind}]"]
    lines += [f"{name} = {_toml(value)}" for name, value in cloud.provider_settings(instance).items()]
    lines += [f"# Faults, calls, the clock and things done by hand: {cloud.url}/_control/"]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    return json.dumps(value if isinstance(value, (bool, int, float, list)) else str(value))
