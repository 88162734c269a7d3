"""The Prefer header (RFC 7240): `Prefer: wait=10` asks to be answered when the export is ready."""

import re
from typing import Annotated

from fastapi import Depends, Header, Request, Response

MAX_WAIT_SECONDS = 300
_WAIT = re.compile(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:;.*)?', re.IGNORECASE)


async def wait_seconds(
    request: Request,
    response: Response,
    prefer: Annotated[  # noqa: ARG001 - for the OpenAPI document; the header may come several times
        str | None,
        Header(
            description=f"`wait=N`: answer when the export is ready or has failed, after N seconds at the latest "
            f"(at most {MAX_WAIT_SECONDS}). `Preference-Applied` says how long it was."
        ),
    ] = None,
) -> int | None:
    """What the client asks for, bounded. None without such a preference, or with one that makes no sense."""
    preferences = [preference for header in request.headers.getlist("prefer") for preference in header.split(",")]
    for preference in preferences:
        if match := _WAIT.fullmatch(preference):
            seconds = min(int(match[1]), MAX_WAIT_SECONDS)
            response.headers["Preference-Applied"] = f"wait={seconds}"
            return seconds
    return None


WaitSeconds = Annotated[int | None, Depends(wait_seconds)]
