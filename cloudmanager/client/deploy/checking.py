"""May the target be written, and is there an earlier run to go on from?"""

from cloudmanager.client.deploy.emptiness import content_of
from cloudmanager.client.deploy.errors import DifferenceFound, TargetNotEmpty
from cloudmanager.client.deploy.progress import Phase
from cloudmanager.client.deploy.run import Run
from cloudmanager.client.deploy.units import HEAD_BYTES
from cloudmanager.transfer.extents import Extent, pieces
from cloudmanager.transfer.libnbd import LONGEST_RANGE

_SAMPLE = 8


def can_resume(run: Run) -> bool:
    """Whether the journal of an earlier run is about this image and target, and true as far as a sample shows."""
    is_known = run.is_stream or bool(run.source.identity)
    if not (run.options.resume and run.journal.is_begun and is_known):
        return False
    units = {unit.index: unit for unit in run.units(run.source.size_bytes or run.target.size_bytes)}
    sample = [units[index] for index in _spread(sorted(run.journal.written.keys() & units.keys()))]
    try:
        run.verification(sample, run.journal.written).run(lambda: None)
    except DifferenceFound:
        run.journal.left_on = ""  # it is somebody else's now
        run.say(Phase.CHECKING, "The target was changed since the last run, so all of it is written again.")
        return False
    run.say(Phase.CHECKING, "Going on where an earlier run ended.")
    return True


def refuse_content(run: Run) -> None:
    """Raises TargetNotEmpty, unless it may be overwritten."""
    if run.options.overwrite or not run.target.size_bytes:
        return
    with run.target.reader(run.patience) as reader:
        content = content_of(reader, run.target.size_bytes)
        is_ours = run.journal.left_on == run.target.likeness and not content_of(reader, HEAD_BYTES)
    if is_ours:
        run.say(Phase.CHECKING, "The target holds what an earlier run has left, and is written anew.")
    elif content is not None:
        raise TargetNotEmpty(
            f"{run.target.name} holds {content}. Name another target, or say that it is to be overwritten."
        )


def is_blank(run: Run) -> bool:
    """Whether the target says that it reads as zero from end to end."""
    whole = Extent(0, run.target.size_bytes)
    with run.target.writer(run.patience) as writer:
        return all(extent.is_zero for part in pieces(whole, LONGEST_RANGE) for extent in writer.extents(part))


def _spread(indices: list[int]) -> list[int]:
    """The last one, which is the likeliest to be wrong, and some of the others."""
    step = max(1, len(indices) // _SAMPLE)
    return sorted({*indices[::step], *indices[-1:]})
