"""Emulated clouds, and how often they are called."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from cloudmanager.testing.cloud import KINDS
from cloudmanager.testing.cloud.emulator import Emulator

INSTANCE = "worker-1"
NAMES = {"gce": "GCE", "ec2": "AWS EBS", "azure": "Azure"}


@contextmanager
def cloud(kind: str, pace: float) -> Iterator[Emulator[Any]]:
    """With one instance. `pace` 1.0: it takes the real cloud's time, and so is polled as often as that one."""
    make: Callable[..., Emulator[Any]] = import_module(KINDS[kind]).Emulation
    with tempfile.TemporaryDirectory(prefix="cm-bench-") as directory:
        with make(Path(directory), pace=pace) as emulator:
            emulator.make_instance(INSTANCE)
            yield emulator
