"""Texts that people give: who holds what, who orders it and why."""

from cloudmanager.core.errors import InvalidRequest

MAX_HOLDER_LENGTH = 256
MAX_NOTE_LENGTH = 4096
MAX_KEY_LENGTH = 255


def check_text(name: str, value: str, longest: int, *, needed: bool = False) -> None:
    """Raises InvalidRequest. A text that is needed has one line."""
    if needed and not value.strip():
        raise InvalidRequest(f"{name} must not be empty.")
    if len(value) > longest:
        raise InvalidRequest(f"{name} has {len(value)} characters; at most {longest} are kept.")
    if not all(char.isprintable() or (char == "\n" and not needed) for char in value):
        raise InvalidRequest(f"{name} must be printable text.")
