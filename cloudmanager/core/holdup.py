"""What a provider's call is waiting for at this moment: told by whoever waits, heard by whoever called.

A hook that a cloud throttles waits and asks again by itself, for half a minute or so. Who looks at the export meanwhile
wants to know why.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

from cloudmanager.core.errors import CloudManagerError

Listener: TypeAlias = Callable[[CloudManagerError], None]
_listener: ContextVar[Listener | None] = ContextVar("holdup_listener", default=None)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """`listener` is called with each error that is waited for within, in this thread."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(error: CloudManagerError) -> None:
    """The call waits for this error to pass before it goes on."""
    if (listener := _listener.get()) is not None:
        listener(error)
