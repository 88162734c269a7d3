"""A third-party plugin: a provider of a cloud of files, and random failures of all of its hooks.

It finds the cloud at LOAD_CLOUD. One call in LOAD_BAD_LUCK fails; a number is kept of those that did.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Generator
from pathlib import Path

from cloudmanager import hookimpl
from cloudmanager.core.errors import CloudUnavailable
from tests.faults.file_cloud import FileCloud, FileCloudPlugin

HOOKS = ("plan_attach", "attach", "locate", "detach")
FAILURES = "failures"
"""A file beside the cloud's, of one byte for each injected error."""


@hookimpl
def register_providers() -> list[type]:
    return FileCloudPlugin(FileCloud(Path(os.environ["LOAD_CLOUD"]))).register_providers()


def _unlucky(_hook: str) -> Callable[[], Generator[None, object, object]]:
    @hookimpl(wrapper=True)
    def wrapper() -> Generator[None, object, object]:
        _maybe_fail()
        answer = yield
        _maybe_fail()
        return answer

    return wrapper


def _maybe_fail() -> None:
    """Before the provider acts, or after it, so that its answer is lost."""
    if _chance.random() * float(os.environ["LOAD_BAD_LUCK"]) < 1:
        with _lock, (Path(os.environ["LOAD_CLOUD"]) / FAILURES).open("ab") as failures:
            failures.write(b".")
        raise CloudUnavailable("The cloud is not in the mood.")


_chance = random.Random()  # noqa: S311 - no secret
_lock = threading.Lock()
plan_attach, attach, locate, detach = map(_unlucky, HOOKS)
