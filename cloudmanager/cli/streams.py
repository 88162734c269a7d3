"""Standard input, output and error of a command: closed, full, or of an encoding that lacks a character."""

import codecs
import errno
import io
import os
import sys
from typing import Any

_PLAIN = {"✓": "ok", "✗": "x", "…": "...", "→": "->"}
"""ASCII replacements for the few other characters in our own messages."""
_LEGIBLE = "cloudmanager-legible"


class OutputFailed(Exception):
    """Standard output cannot be written. Not an OSError, so that no caller mistakes it for another error."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"The output cannot be written: {error.strerror}.")
        self.is_unwanted = error.errno == errno.EPIPE
        """Its reader has read enough, as `head` does."""


def prepare() -> None:
    """To be called before anything is opened or written."""
    _fill_closed()
    codecs.register_error(_LEGIBLE, _legible)
    sys.stdout = _stream(_Output(1, "w", closefd=False), sys.stdout)
    sys.stderr = _stream(_BestEffort(2, "w", closefd=False), sys.stderr)


def flush() -> None:
    """Raises OutputFailed; the interpreter, which would try again at its end, finds nothing."""
    try:
        sys.stdout.flush()
    except OutputFailed:
        give_up()
        raise


def give_up() -> None:
    """Discards what is still to be written to standard output."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for the rest of the process


def printable(text: str) -> str:
    """What comes from elsewhere may hold sequences that a terminal obeys."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class _Output(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OutputFailed(error) from error


class _BestEffort(io.FileIO):
    """Messages beside the output: that nobody can see them (a terminal is gone, a log is full) stops no work."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or len(data)
        except OSError:
            return len(data)


def _stream(raw: io.FileIO, like: Any) -> io.TextIOWrapper:
    """`like` is what Python has made of it, None if it was closed."""
    encoding = getattr(like, "encoding", None) or "utf-8"
    errors = getattr(like, "errors", None) or "strict"
    is_loud = errors in ("strict", "backslashreplace")
    lines = raw.isatty() or isinstance(raw, _BestEffort) or getattr(like, "write_through", False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, _LEGIBLE if is_loud else errors, line_buffering=lines, newline="\n"
    )


def _fill_closed() -> None:
    """A file or connection that got the number of a closed stream would receive what is meant for that.

    In its place is what fails to be written, as the closed stream would.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_WRONLY if descriptor == 0 else os.O_RDONLY), True)


def _legible(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    if all(char in _PLAIN for char in unknown):
        return "".join(_PLAIN[char] for char in unknown), error.end
    return codecs.backslashreplace_errors(error)
