"""An emulated cloud in a process of its own, so that it outlives every service that is killed.

Run as `python -m tests.faults.emulated KIND DIRECTORY ADDRESS`; ends when its standard input does.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from pathlib import Path

from cloudmanager.testing.cloud import KINDS
from tests.faults.console import MACHINES, Console
from tests.faults.remote_object import serve


def main(kind: str, directory: str, address: str) -> None:
    emulation = importlib.import_module(KINDS[kind]).Emulation
    with emulation(Path(directory)) as cloud:
        cloud.limits.lift()  # the services under test start more often in a minute than others do in a year
        for machine in MACHINES:
            cloud.make_instance(machine)
        console = threading.Thread(target=serve, args=(Console(cloud), Path(address), sys.stdout.fileno()), daemon=True)
        console.start()
        while os.read(sys.stdin.fileno(), 1):
            pass


if __name__ == "__main__":
    main(*sys.argv[1:])
