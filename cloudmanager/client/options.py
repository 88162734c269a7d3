"""How an export is asked for, awaited and kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
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
    idempotency_key: str | None
    """Of an export that an earlier process may have asked for with the same words, before it was killed: if that still
    lives, it is taken over, and lives anew. Otherwise a key is made."""
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
    """SIGTERM, and SIGHUP where it is not ignored or handled, end the block by SystemExit instead of ending the process
    on the spot. Main thread only."""


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


def check_keywords(given: Mapping[str, object], known: type, function: str) -> None:
    """Raises TypeError for a keyword that the TypedDict `known` does not have, as Python does for a wrong argument.

    `**options: Unpack[ExportOptions]` says so to type checkers only: at run time it takes every keyword.
    """
    for name in given:
        if name not in known.__annotations__:
            near = get_close_matches(name, known.__annotations__, n=1)
            advice = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{function}() has no keyword {name!r}{advice}")


def wanted_by(disk: str, access: Access | str, options: ExportOptions, key: str = "") -> Wanted:
    """Raises InvalidRequest, and TypeError for a keyword that is none of ExportOptions."""
    check_keywords(options, ExportOptions, "export")
    holder = options.get("holder") or default_holder()
    key = key or options.get("idempotency_key") or ""
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
