"""Files that are nobody else's."""

import os
from pathlib import Path


def write_private(path: Path, content: bytes) -> None:
    """All of it, or nothing: also after a crash."""
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    unfinished.rename(path)
