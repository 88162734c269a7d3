"""A plugin: a cloud of files whose calls hang for as long as a file says so. Told by the environment where it is."""

import os
import time
from collections.abc import Callable, Generator
from pathlib import Path

from cloudmanager import hookimpl
from tests.faults.file_cloud import FileCloud, FileCloudProvider

VARIABLE = "HANGING_CLOUD"


class HangingProvider(FileCloudProvider):
    """Of the cloud that the environment names."""

    type = "hanging"

    def __init__(self, name: str, settings: object) -> None:
        super().__init__(name, settings)  # type: ignore[arg-type]  # it has none
        self.file_cloud = FileCloud(Path(os.environ[VARIABLE]))


@hookimpl
def register_providers() -> list[type]:
    return [HangingProvider]


def _hanging(hook: str) -> Callable[[], Generator[None, object, object]]:
    def wrapper() -> Generator[None, object, object]:
        Hook(Path(os.environ[VARIABLE]), hook).wait()
        return (yield)

    wrapper.__name__ = hook
    return hookimpl(wrapper=True)(wrapper)


node = _hanging("node")
describe = _hanging("describe")
attach = _hanging("attach")
detach = _hanging("detach")


class Hook:
    """One of the cloud's calls, as the tests and the plugin see it."""

    def __init__(self, directory: Path, name: str) -> None:
        self._hangs = directory / f"{name} hangs"
        self._is_called = directory / f"{name} is called"

    def hang(self) -> None:
        self._hangs.touch()

    def go_on(self) -> None:
        self._hangs.unlink(missing_ok=True)

    @property
    def is_called(self) -> bool:
        """While it hung."""
        return self._is_called.exists()

    def wait(self) -> None:
        while self._hangs.exists():
            self._is_called.touch()
            time.sleep(0.05)
