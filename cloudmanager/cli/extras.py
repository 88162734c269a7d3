"""The parts of cloudmanager that pip installs on request."""

from collections.abc import Iterator
from contextlib import contextmanager

from cloudmanager.core.errors import MissingExtra


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports: a third-party package that is missing raises MissingExtra with the command that installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "cloudmanager"):
            raise
        raise MissingExtra(
            f"This needs the {name} part ({package} is not installed): pip install 'cloudmanager[{name}]'"
        ) from error
