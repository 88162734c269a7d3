"""The HTTP interface. What it needs beyond the light package comes with `pip install 'cloudmanager[server]'`."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cloudmanager.core.errors import MissingExtra

if TYPE_CHECKING:
    from fastapi import FastAPI

    from cloudmanager.core.manager import Manager
    from cloudmanager.core.settings import Settings

__all__ = ["create_app", "serve"]


def serve(settings: "Settings") -> None:
    """Runs the service until SIGTERM or SIGINT. Raises SetupError and what derives from it, StoreUnavailable."""
    try:
        with _no_garbage_collection():
            from cloudmanager.api.serving import run  # noqa: PLC0415 - it may be missing, and then we say what to do
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    run(settings)


def create_app(manager: "Manager", settings: "Settings") -> "FastAPI":
    """The ASGI app for a manager that runs. Raises MissingExtra."""
    try:
        from cloudmanager.api.app import create_app as create  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    return create(manager, settings)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """While modules are loaded: they stay, and to search them again and again takes a sixth of a start."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _missing(error: ModuleNotFoundError) -> ModuleNotFoundError | MissingExtra:
    """A module of our own that is missing is a defect, and stays what it is."""
    if (error.name or "").partition(".")[0] == "cloudmanager":
        return error
    return MissingExtra(f"The service needs {error.name}. Install it with: pip install 'cloudmanager[server]'")
