"""Emulated clouds, and how often they are called."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from benchmarks.rig import leftovers
from cloudmanager.testing.cloud import KINDS
from cloudmanager.testing.cloud.emulator import Emulator

INSTANCE = "worker-1"
NAMES = {"gce": "GCE", "ec2": "AWS EBS", "azure": "Azure"}


@contextmanager
def cloud(kind: str, pace: float) -> Iterator[Emulator[Any]]:
    """With one instance. `pace` 1.0: it takes the real cloud's time, and so is polled as often as that one."""
    make: Callable[..., Emulator[Any]] = import_module(KINDS[kind]).Emulation
    with leftovers.directory() as directory, make(directory, pace=pace) as emulator:
        emulator.make_instance(INSTANCE)
        yield emulator
