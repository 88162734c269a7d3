"""How a deployment looks to a person."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cloudmanager.cli.client.output import bytes_in_words, is_watched, remark, words

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from cloudmanager.client.deploy import Growth, Progress, Result


class Told:
    """Remarks and the end."""

    def progress(self, progress: "Progress") -> None:
        if progress.remark:
            remark(progress.remark)

    def failed(self, error: BaseException) -> None:
        """What is printed as the error says enough."""

    def done(self, result: "Result") -> None:
        remark(_summary(result))
        if result.bad_ranges:
            remark(_bad_ranges(result))
        if result.growth is not None:
            remark(_growth(result.growth))


class Shown(Told):
    """A bar, too."""

    def __init__(self, bars: "Bars") -> None:
        self._bars = bars
        self._task = bars.add_task("", total=None)

    def progress(self, progress: "Progress") -> None:
        if progress.remark:
            self._bars.console.print(progress.remark)
        total = 1.0 if progress.fraction is not None else None
        self._bars.update(self._task, description=_line(progress), completed=progress.fraction or 0.0, total=total)

    def failed(self, error: BaseException) -> None:
        del error
        self._bars.stop()


@contextmanager
def bar() -> Iterator[Told]:
    """On a terminal; elsewhere only remarks and the end are written."""
    if not is_watched():
        yield Told()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True, highlight=False)
    with Bars(BarColumn(), TextColumn("{task.description}"), console=console, transient=True) as bars:
        yield Shown(bars)


def _line(progress: "Progress") -> str:
    parts = [progress.phase.value]
    if progress.done_bytes:
        total = f" of {bytes_in_words(progress.total_bytes)}" if progress.total_bytes is not None else ""
        parts.append(f"{bytes_in_words(progress.done_bytes)}{total}")
    if progress.bytes_per_second:
        parts.append(f"{bytes_in_words(round(progress.bytes_per_second))}/s")
    if progress.seconds_left is not None:
        parts.append(f"{words(round(progress.seconds_left))} left")
    return ", ".join(parts)


def _summary(result: "Result") -> str:
    parts = [
        f"{bytes_in_words(result.size_bytes)} deployed in {result.seconds:.1f} s",
        f"{bytes_in_words(result.written_bytes)} of it sent",
    ]
    if result.resumed_bytes:
        parts.append(f"{bytes_in_words(result.resumed_bytes)} were there from an earlier run")
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
    return (
        f"{what} was grown from {bytes_in_words(growth.before_bytes)} to {bytes_in_words(growth.after_bytes)}{system}."
    )
