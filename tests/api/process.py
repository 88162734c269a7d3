"""The service as a process of its own."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.api.service import settings_for
from tests.waiting import eventually

SERVE = """
import json, sys
from pathlib import Path
from cloudmanager.api import serve
from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.settings import from_tables
try:
    serve(from_tables(json.loads(Path(sys.argv[1]).read_text())))
except CloudManagerError as error:
    sys.exit(f"{type(error).__name__}: {error.detail}")
"""


@dataclass
class Process:
    """A service that runs apart. `lines` is what it has logged."""

    popen: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def address(self) -> str:
        eventually(lambda: bool(self._listening()) or self.popen.poll() is not None, "it does not listen")
        (address,) = self._listening()
        return address

    def _listening(self) -> list[str]:
        return [match[1] for line in self.lines if (match := re.search(r"listening on (\S+)", line))]


@contextmanager
def process(
    directory: Path,
    *,
    environment: Mapping[str, str] | None = None,
    files: int | None = None,
    **tables: Mapping[str, object],
) -> Iterator[Process]:
    """`files`: that it may have open, as after `ulimit -n`."""
    configuration = directory / "configuration.json"
    configuration.write_text(settings_for(directory, **tables).model_dump_json())
    limit = ["prlimit", f"--nofile={files}:{files}"] if files else []
    command = [*limit, sys.executable, "-c", SERVE, str(configuration)]
    surroundings = {**os.environ, **(environment or {})}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path.cwd(), env=surroundings) as popen:
        started = Process(popen)
        reader = threading.Thread(target=lambda: started.lines.extend(popen.stderr or ()))
        reader.start()
        try:
            yield started
        finally:
            popen.terminate()
            popen.wait(20)
            reader.join(20)
