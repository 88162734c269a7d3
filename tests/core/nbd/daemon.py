"""A daemon to be killed: exports a disk a number of times, says so line by line, and serves until it ends.

Run as `python -m tests.core.nbd.daemon DIRECTORY IMAGE NUMBER SETTINGS`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import uuid
from pathlib import Path

from cloudmanager.core.model import Access
from cloudmanager.core.nbd import ServerSpec
from cloudmanager.core.records import ServerProcess, new_export_name
from tests.core.nbd.exporter import Exporter, Served, device


def main(directory: str, image: str, number: str, settings: str) -> None:
    exporter = Exporter(Path(directory), **json.loads(settings))
    for _ in range(int(number)):
        export_id, name = str(uuid.uuid4()), new_export_name()
        port = exporter.servers.reserve(export_id)
        say(export_id=export_id, name=name, port=port)
        served = exporter.start(ServerSpec(export_id, name, port, Access.READ_ONLY, device(Path(image))))
        say(process=dataclasses.asdict(served.process))
    say(done=True)
    sys.stdin.read()


def say(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def served(image: Path, announced: dict[str, object], started: dict[str, object] | None) -> Served:
    """An export, from what a daemon has said of it; without a process when it was killed before it said that."""
    spec = ServerSpec(
        str(announced["export_id"]),
        str(announced["name"]),
        int(str(announced["port"])),
        Access.READ_ONLY,
        device(image),
    )
    process = ServerProcess(**started["process"]) if started else ServerProcess("", 0, 0, 0)  # type: ignore[arg-type] # from JSON
    return Served(spec, process, "")


if __name__ == "__main__":
    main(*sys.argv[1:])
