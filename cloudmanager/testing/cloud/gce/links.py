"""The ways in which a request may name a resource: full links of either host, or partial paths."""

import re

_HOSTS = re.compile(r"https://(www\.googleapis\.com/compute|compute\.googleapis\.com/compute)/(v1|beta)/")


def path_of(text: str, project: str) -> str | None:
    """`projects/P/…` as the state keys it; None for what is no link to a resource."""
    rest = _HOSTS.sub("", text, count=1)
    if re.fullmatch(r"(zones|regions)/[^/]+/[a-zA-Z]+/[^/]+|global/[a-zA-Z]+/[^/]+", rest):
        rest = f"projects/{project}/{rest}"
    return rest if re.fullmatch(r"projects/[^/]+/((zones|regions)/[^/]+|global)/[a-zA-Z]+/[^/]+", rest) else None
