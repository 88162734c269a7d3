"""A task's input files, with a usable path for each disk."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from cloudmanager.client import access_methods
from cloudmanager.client.access_methods import AccessMethod
from cloudmanager.client.access_methods.errors import AccessLost
from cloudmanager.client.cloud_manager import CloudManager
from cloudmanager.client.errors import ClientError, ExportLost, NotReadyInTime, ServiceError, Unreachable
from cloudmanager.client.exported_disk import ExportedDisk
from cloudmanager.client.openrelik.descriptor import Descriptor, InputFile, describes_disk
from cloudmanager.client.openrelik.naming import disk_id

log = logging.getLogger(__name__)

_FORMS = {
    AccessMethod.DEVICE: (".raw", "diskimage:raw"),
    AccessMethod.FILE: (".raw", "diskimage:raw"),
    AccessMethod.STUB: (".qcow2", "diskimage:qcow"),
}
"""The extension and the data type by which openrelik-worker-common knows what a path leads to."""
_PASSING = (Unreachable, NotReadyInTime, ExportLost, AccessLost)


@dataclass(frozen=True)
class Failure:
    """A disk that is not among the prepared files."""

    input_file: InputFile
    error: ClientError

    @property
    def retriable(self) -> bool:
        """Whether another attempt may succeed: no service, a retriable error, or a lost disk."""
        return isinstance(self.error, _PASSING) or (isinstance(self.error, ServiceError) and self.error.retriable)


class PreparationFailed(ClientError):
    """No disk of the task could be prepared."""

    def __init__(self, detail: str, *, failures: Sequence[Failure] = ()) -> None:
        super().__init__(detail)
        self.failures = tuple(failures)

    @property
    def retriable(self) -> bool:
        """Whether another attempt at the task may succeed for at least one disk."""
        return any(failure.retriable for failure in self.failures)


class PreparedFiles(list[dict[str, Any]]):
    """The input files that can be worked on, in their order. Give them to `postprocess`, or use them in a `with`."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[Failure] = []
        """The disks that are missing from it, and why."""
        self.disks: list[ExportedDisk] = []
        """`check()` of each raises ExportLost once its bytes cannot be relied on any more."""
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.__exit__(kind, error, trace)

    def _add(self, input_file: InputFile, preparation: _Preparation) -> None:
        """What it sets up is undone at the end, or at once if it fails."""
        with ExitStack() as undo:
            try:
                disk, prepared = preparation.run(input_file, undo)
            except ClientError as error:
                log.warning("%s cannot be prepared: %s", input_file.get("display_name"), error.detail)
                self.failures.append(Failure(input_file, error))
                return
            self.append(prepared)
            self.disks.append(disk)
            self._undo.push(undo.pop_all())


def preprocess(
    input_files: Iterable[InputFile],
    *,
    manager: CloudManager | None = None,
    method: AccessMethod | None = None,
    holder: str | None = None,
) -> PreparedFiles:
    """Exports each disk among the files, and gives it a path. Other files are passed on as they are.

    `method` is the best that the machine allows unless one is named. A disk that fails is in `failures`, and the task
    goes on with the others. Raises PreparationFailed when every file was a disk that failed; then nothing is left.
    """
    preparation = _Preparation(manager or CloudManager(), method, holder)
    with ExitStack() as undo:
        prepared = undo.enter_context(PreparedFiles())
        for input_file in input_files:
            if describes_disk(input_file):
                prepared._add(input_file, preparation)
            else:
                prepared.append(dict(input_file))
        if prepared.failures and not prepared:
            raise _nothing_left(prepared.failures)
        undo.pop_all()
    return prepared


def postprocess(prepared: PreparedFiles) -> None:
    """Undoes everything and releases the disks, whatever happened in between.

    Raises ExportLost or AccessLost when a disk was lost while it was worked on: the results of the task are not
    reliable then, and Celery may try it again.
    """
    prepared.__exit__(None, None, None)


@dataclass(frozen=True)
class _Preparation:
    """How each disk of a task is prepared."""

    manager: CloudManager
    method: AccessMethod | None
    holder: str | None

    def run(self, input_file: InputFile, undo: ExitStack) -> tuple[ExportedDisk, dict[str, Any]]:
        """Raises ClientError."""
        descriptor = Descriptor.read(input_file)
        name = disk_id(self.manager, descriptor)
        note = f"OpenRelik input {input_file.get('uuid') or input_file.get('display_name')}"
        disk = undo.enter_context(self.manager.export(name, descriptor.access, holder=self.holder, note=note))
        method = self.method or access_methods.choose(disk.address).method
        path = undo.enter_context(disk.open(method))
        return disk, {**input_file, **_as_image(name, method), "path": str(path)}


def _as_image(name: str, method: AccessMethod) -> dict[str, str]:
    extension, data_type = _FORMS[method]
    short = name.rpartition(":")[2].rpartition("/")[2]
    return {
        "display_name": f"{short.removesuffix(extension)}{extension}",
        "extension": extension,
        "data_type": data_type,
        "cloud_disk": name,
    }


def _nothing_left(failures: list[Failure]) -> PreparationFailed:
    reasons = "; ".join(f"{failure.input_file.get('display_name')}: {failure.error.detail}" for failure in failures)
    return PreparationFailed(f"No disk of the task could be prepared: {reasons}", failures=failures)
