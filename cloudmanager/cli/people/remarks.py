"""What a person is told beside the answer, on standard error."""

import sys


def remark(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def is_watched() -> bool:
    """Whether a terminal is there to show movement on: rich, which does that, takes a while to be imported."""
    return sys.stderr.isatty()
