"""What The Sleuth Kit sees on a disk."""

import re
import subprocess
from collections.abc import Iterator

_SLOT = re.compile(r"^\d+:\s+\d+(?::\d+)?\s+(\d+)\s+\d+\s+\d+\s+(.*)$")
"""A line of `mmls -a` for a partition: its first sector and what it is."""


def list_files(disk: str, *, deleted_only: bool) -> Iterator[str]:
    """A line for each file, below a heading for each partition that holds a file system; fls marks deleted with `*`."""
    for start, name in partitions(disk):
        command = ["fls", "-r", "-p", *(["-d"] if deleted_only else []), "-o", str(start), disk]
        listed = subprocess.run(command, capture_output=True, text=True, check=False)
        if listed.returncode == 0:
            yield f"# sector {start}: {name}"
            yield from listed.stdout.splitlines()


def partitions(disk: str) -> list[tuple[int, str]]:
    """First sector and kind of each; a disk without a table is one."""
    table = subprocess.run(["mmls", "-a", disk], capture_output=True, text=True, check=False)
    found = [(int(match[1]), match[2]) for line in table.stdout.splitlines() if (match := _SLOT.match(line))]
    return found or [(0, "the whole disk")]
