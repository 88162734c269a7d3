"""cloudmanager deploy"""

import dataclasses
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cloudmanager.cli.client.output import format_bytes, format_duration, is_watched, print_message
from cloudmanager.client import ExportedDisk
from cloudmanager.client.address import NbdAddress, address_of, is_nbd_uri
from cloudmanager.client.errors import ClientError
from cloudmanager.client.model import Access
from cloudmanager.client.service import UploadEndpoint
from cloudmanager.client.signals import unwinding_on_sigterm

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from cloudmanager.client.deploy import DeployOptions, Growth, Phase, Progress, Result

_DISK = re.compile(r"[A-Za-z][\w-]*:")
_INCOMPLETE = "The target is incomplete, and has no partition table."
_GO_ON = f"{_INCOMPLETE} The same command goes on where this one ended."
_ANEW = f"{_INCOMPLETE} The same command writes it anew."
_UNVERIFIED = "The target is written, and not verified. The same command goes on where this one ended."


@dataclass(frozen=True)
class _Endpoint:
    """A source or target, and what it is called in a journal where its address may change."""

    end: "Path | str | NbdAddress"
    name: str = ""
    upload_via: UploadEndpoint | None = None


def deploy(image: str, target: str, options: "DeployOptions", *, holder: str | None, as_json: bool) -> "Result":
    """Raises ClientError; KeyboardInterrupt or SystemExit after a signal."""
    from cloudmanager.client.deploy import deploy as deploy_image  # before anything is begun that a signal undoes

    cancelled = threading.Event()
    with ExitStack() as stack:
        stack.enter_context(unwinding_on_sigterm())
        source = stack.enter_context(_source(image, holder, cancelled))
        disk = stack.enter_context(_target(target, holder, cancelled))
        show = _Lines() if as_json else stack.enter_context(bar())
        all_options: DeployOptions = {
            **options,
            "progress": show.progress,
            "cancelled": cancelled,
            "source_id": source.name,
            "target_id": disk.name,
            "upload_via": disk.upload_via,
        }
        try:
            result = deploy_image(source.end, disk.end, **all_options)
        except BaseException as error:
            show.failed(error)
            if _is_resumable(error, show.phase) and not as_json:
                print_message(_what_is_left(error, show.phase))
            raise
    show.done(result)
    return result


class _Lines:
    """A JSON object for each event."""

    phase: "Phase | None" = None
    """Of the last progress."""

    def progress(self, progress: "Progress") -> None:
        self.phase = progress.phase
        _print({"event": "progress", **dataclasses.asdict(progress)})

    def failed(self, error: BaseException) -> None:
        detail = error.detail if isinstance(error, ClientError) else str(error)
        kind = type(error).__name__
        _print({"event": "failed", "error": kind, "detail": detail, "is_resumable": _is_resumable(error, self.phase)})

    def done(self, result: "Result") -> None:
        _print({"event": "done", **dataclasses.asdict(result)})


def _print(event: dict[str, object]) -> None:
    print(json.dumps(event, default=str), flush=True)


def _is_resumable(error: BaseException, phase: "Phase | None") -> bool:
    """Whether the target was begun and not finished. A signal knows nothing of that: the phase does."""
    from cloudmanager.client.deploy import DeployError, Phase

    if isinstance(error, DeployError):
        return error.is_resumable
    return not isinstance(error, Exception) and phase in (Phase.WRITING, Phase.FLUSHING, Phase.VERIFYING)


def _what_is_left(error: BaseException, phase: "Phase | None") -> str:
    from cloudmanager.client.deploy import Phase
    from cloudmanager.client.deploy.errors import DifferenceFound, SourceChanged

    if isinstance(error, SourceChanged | DifferenceFound):
        return _ANEW
    return _UNVERIFIED if phase is Phase.VERIFYING else _GO_ON


@contextmanager
def _source(text: str, holder: str | None, cancelled: threading.Event) -> Iterator[_Endpoint]:
    if is_nbd_uri(text):
        yield _Endpoint(address_of(text))
    elif _is_disk(text):
        with _exported(text, Access.READ_ONLY, holder, cancelled) as disk:
            yield _Endpoint(disk.address, _journal_name(text))
    else:
        yield _Endpoint(text)


@contextmanager
def _target(text: str, holder: str | None, cancelled: threading.Event) -> Iterator[_Endpoint]:
    if is_nbd_uri(text):
        yield _Endpoint(address_of(text, is_writable=True))
    elif _is_disk(text):
        with _exported(text, Access.READ_WRITE, holder, cancelled) as disk:
            yield _Endpoint(disk.address, _journal_name(text), disk.upload_via)
    else:
        yield _Endpoint(Path(text))


@contextmanager
def _exported(disk: str, access: Access, holder: str | None, cancelled: threading.Event) -> Iterator[ExportedDisk]:
    """A disk of a provider; when its export is lost, the deployment ends."""
    from cloudmanager.cli.client.waiting import exported

    with exported(disk, access, goes_on=True, holder=holder, on_lost=lambda _lost: cancelled.set()) as ready:
        yield ready


def _is_disk(text: str) -> bool:
    """Whether it is `provider:name`, and no file of that name is there."""
    return bool(_DISK.match(text)) and "://" not in text and not Path(text).exists()


def _journal_name(disk: str) -> str:
    return f"{disk} of {os.environ.get('CLOUDMANAGER_URL', 'this machine')}"


class Messages:
    """Prints messages and the result."""

    phase: "Phase | None" = None
    """Of the last progress."""

    def progress(self, progress: "Progress") -> None:
        self.phase = progress.phase
        if progress.remark:
            print_message(progress.remark)

    def failed(self, error: BaseException) -> None:
        """Nothing: the command prints the error itself."""

    def done(self, result: "Result") -> None:
        print_message(_summary(result))
        if result.bad_ranges:
            print_message(_bad_ranges(result))
        if result.growth is not None:
            print_message(_growth(result.growth))


class ProgressBar(Messages):
    """A bar, too."""

    def __init__(self, bars: "Bars") -> None:
        self._bars = bars
        self._task = bars.add_task("", total=None)

    def progress(self, progress: "Progress") -> None:
        self.phase = progress.phase
        if progress.remark:
            self._bars.console.print(progress.remark)
        total = 1.0 if progress.fraction is not None else None
        self._bars.update(self._task, description=_line(progress), completed=progress.fraction or 0.0, total=total)

    def failed(self, error: BaseException) -> None:
        del error
        self._bars.stop()


@contextmanager
def bar() -> Iterator[Messages]:
    """Draws progress bars on a terminal; elsewhere only messages and the result are printed."""
    if not is_watched():
        yield Messages()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True, highlight=False)
    with Bars(BarColumn(), TextColumn("{task.description}"), console=console, transient=True) as bars:
        yield ProgressBar(bars)


def _line(progress: "Progress") -> str:
    parts = [progress.phase.value]
    if progress.done_bytes:
        total = f" of {format_bytes(progress.total_bytes)}" if progress.total_bytes is not None else ""
        parts.append(f"{format_bytes(progress.done_bytes)}{total}")
    if progress.bytes_per_second:
        parts.append(f"{format_bytes(round(progress.bytes_per_second))}/s")
    if progress.seconds_left is not None:
        parts.append(f"{format_duration(round(progress.seconds_left))} left")
    return ", ".join(parts)


def _summary(result: "Result") -> str:
    parts = [
        f"{format_bytes(result.size_bytes)} deployed in {result.seconds:.1f} s",
        f"{format_bytes(result.written_bytes)} of it sent",
    ]
    if result.resumed_bytes:
        parts.append(f"{format_bytes(result.resumed_bytes)} were there from an earlier run")
    if result.is_verified:
        parts.append("verified: the target holds what was read of the image")
    return "; ".join(parts) + "."


def _bad_ranges(result: "Result") -> str:
    listed = "\n".join(f"  bytes {each.offset} to {each.offset + each.length - 1}" for each in result.bad_ranges)
    return f"These could not be read of the image, and are zeros on the target:\n{listed}"


def _growth(growth: "Growth") -> str:
    what = f"Partition {growth.partition}" if growth.partition else "The disk"
    system = f" with its {growth.file_system} file system" if growth.file_system else "; its content was left as it is"
    if growth.after_bytes == growth.before_bytes:
        return f"{what} fills the target{system}."
    return f"{what} was grown from {format_bytes(growth.before_bytes)} to {format_bytes(growth.after_bytes)}{system}."
