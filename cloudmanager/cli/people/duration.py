"""How long, as people write it."""

import re

import typer

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> int:
    """`90`, `90s`, `30m`, `2h`, `1d`."""
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text.strip())
    if match is None or not int(match[1]):
        raise typer.BadParameter(f"{text!r} is no duration: write 90s, 30m, 2h or 1d.")
    return int(match[1]) * _UNITS[match[2]]


def words(left: float) -> str:
    """The two largest units: `2 h 5 min`."""
    minutes, rest = divmod(max(0, round(left)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [
        f"{number} {unit}" for number, unit in ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")) if number
    ]
    return " ".join(parts[:2]) or "0 s"
