"""How an export is asked for, awaited and kept."""

from dataclasses import dataclass
from typing import TypedDict

from cloudmanager.client.calls import Wanted
from cloudmanager.client.claim import LOOK_SECONDS
from cloudmanager.client.errors import InvalidRequest
from cloudmanager.client.keeping import OnLost, OnProgress
from cloudmanager.client.model import Access
from cloudmanager.client.service import default_holder


class ExportOptions(TypedDict, total=False):
    """The keywords of `export`. All of them can be left out."""

    ttl_seconds: int | None
    """How long the export stays when this process is killed or cut off. By default the service decides."""
    holder: str | None
    """Shown to others whom the export excludes. By default CLOUDMANAGER_HOLDER, or host and pid."""
    note: str
    ready_seconds: float | None
    """How long it is awaited. By default until the service gives it up."""
    look_seconds: float
    """How often the service is asked whether the export is still there: 10."""
    on_progress: OnProgress
    """Called with the Export while it is awaited: at once, every two seconds, and when it is ready."""
    on_lost: OnLost
    """Called with the ExportLost as soon as that is noticed, from a thread of the client's, or from the event loop."""
    interrupt: bool
    """Stop the block as soon as the loss is noticed, so that it raises ExportLost. For threads: as Ctrl-C does, in the
    main thread only, and False by default. For coroutines: the task is cancelled, and True by default."""
    release_on_sigterm: bool
    """SIGTERM ends the block by SystemExit instead of ending the process on the spot. Main thread only."""


@dataclass(frozen=True)
class Terms:
    """How it is awaited and kept."""

    patience_seconds: float
    ready_seconds: float | None = None
    look_seconds: float = LOOK_SECONDS
    on_progress: OnProgress | None = None
    on_lost: OnLost | None = None
    interrupt: bool = False
    release_on_sigterm: bool = False


def wanted_by(disk: str, access: Access | str, options: ExportOptions, key: str = "") -> Wanted:
    """Raises InvalidRequest."""
    holder = options.get("holder") or default_holder()
    return Wanted(disk, _access(access), holder, options.get("ttl_seconds"), options.get("note", ""), key)


def _access(access: Access | str) -> Access:
    try:
        return Access(access)
    except ValueError:
        raise InvalidRequest(f"{access!r} is no access: ask for {', '.join(Access)}.") from None


def terms_of(options: ExportOptions, patience_seconds: float, *, interrupt: bool) -> Terms:
    """`interrupt` is what holds where the options do not say it."""
    return Terms(
        patience_seconds,
        options.get("ready_seconds"),
        options.get("look_seconds", LOOK_SECONDS),
        options.get("on_progress"),
        options.get("on_lost"),
        interrupt=options.get("interrupt", interrupt),
        release_on_sigterm=options.get("release_on_sigterm", False),
    )
