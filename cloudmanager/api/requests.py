"""What a client may send: bodies and query parameters, as the OpenAPI document shows them."""

import re
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Header, Response
from fastapi import Request as HttpRequest
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from cloudmanager.core.claiming import ClaimRequest
from cloudmanager.core.model import MAX_HOLDER_LENGTH, MAX_NOTE_LENGTH, Access, ExportState, Query
from cloudmanager.core.records import ExportFilter

LONGEST_TTL_SECONDS = 10 * 365 * 86400
"""Keeps the arithmetic safe. What is allowed is a setting, which the core checks."""
MAX_PAGE_SIZE = 1000

LARGEST_DISK_BYTES = 2**63 - 1
MOST_DIGESTED_BYTES = 64 * 1024 * 1024
"""Of one request, which takes a while to read."""

NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f]*$"
"""They are refused in every address."""
Word = Annotated[str, Field(max_length=256, pattern=NO_CONTROL_CHARACTERS)]
PageToken = Annotated[
    str, Field(max_length=4096, pattern=NO_CONTROL_CHARACTERS, description="`next_page` of the page before.")
]
Limit = Annotated[int, Field(ge=1, le=MAX_PAGE_SIZE, description="Items per page.")]
Ttl = Annotated[
    StrictInt,
    Field(
        ge=1,
        le=LONGEST_TTL_SECONDS,
        description="Lifetime of the export in seconds, from now. Left out: the configuration's `default_ttl_seconds`. "
        "At most its `max_ttl_seconds`.",
    ),
]


class RequestModel(BaseModel):
    """A body or a set of query parameters. An unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ExportRequest(RequestModel):
    """Asks for a disk."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "disk": "local:web01.qcow2",
                    "access": "read-only",
                    "holder": "plaso-7",
                    "ttl_seconds": 3600,
                    "note": "case 4711",
                }
            ]
        }
    )

    disk: str = Field(description="The disk as `provider:native-id`.")
    access: Access = Field(
        Access.READ_ONLY,
        description="`read-only`; `scratch`: reads the disk, writes go to a private overlay that is thrown away; "
        "`read-write`: excludes every other export of the disk.",
    )
    holder: str = Field(
        min_length=1,
        max_length=MAX_HOLDER_LENGTH,
        description="Who uses the export: shown to others whom it excludes. Printable text.",
    )
    ttl_seconds: Ttl | None = None
    note: str = Field("", max_length=MAX_NOTE_LENGTH, description="Kept with the export. Printable text.")

    def wanted(self, idempotency_key: str | None) -> ClaimRequest:
        return ClaimRequest(
            self.disk, self.access, self.holder, _duration(self.ttl_seconds), self.note, idempotency_key
        )


class RenewRequest(RequestModel):
    """Asks for a longer lifetime, counted from now."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ttl_seconds": 3600}]})

    ttl_seconds: Ttl | None = None

    @property
    def ttl(self) -> timedelta | None:
        return _duration(self.ttl_seconds)


class MaintenanceAction(RequestModel):
    """Who acts as an operator, and why. Both are kept in the audit trail."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"by": "nina", "reason": "The zone is being evacuated."}]}
    )

    by: str = Field("", max_length=MAX_HOLDER_LENGTH, description="Who does it. Printable text.")
    reason: str = Field("", max_length=MAX_NOTE_LENGTH, description="Printable text.")


def _duration(seconds: int | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


class ExportQuery(RequestModel):
    """Which exports are listed."""

    disk: Word = Field("", description="Exports of this disk, `provider:native-id`.")
    holder: Word = Field("", description="Exports of this holder.")
    access: Access | None = Field(None, description="Exports with this access.")
    state: list[ExportState] = Field([], description="Exports in this state. May be repeated.")
    node: Word = Field("", description="Exports of this node.")
    page: PageToken | None = None
    limit: Limit = 100

    @property
    def filter(self) -> ExportFilter:
        return ExportFilter(
            disk=self.disk, holder=self.holder, node=self.node, access=self.access, states=frozenset(self.state)
        )


class DiskQuery(RequestModel):
    """Which disks are listed."""

    provider: Word | None = Field(None, description="Disks of this provider only.")
    q: Word = Field("", description="A part of the name, in any letter case.")
    label: list[Annotated[str, Field(max_length=512, pattern=r"^[^=\x00-\x1f\x7f]+=[^\x00-\x1f\x7f]*$")]] = Field(
        [], description="`key=value`: disks with this label. May be repeated: all must match.", examples=[["case=4711"]]
    )
    location: Word = Field("", description="Zone or region.")
    state: Word = Field("", description="The disk's state, as the cloud calls it.")
    page: PageToken | None = None
    limit: Limit | None = Field(None, description="Items per page, at most: a cloud may give fewer.")

    @property
    def query(self) -> Query:
        labels = dict(label.split("=", 1) for label in self.label)
        return Query(self.q, self.location, labels, self.state)


class DigestQuery(RequestModel):
    """Which range of a disk."""

    offset: int = Field(0, ge=0, le=LARGEST_DISK_BYTES, description="A multiple of the block.", examples=[0])
    length: int = Field(ge=1, le=MOST_DIGESTED_BYTES, description="At most to the end of the disk.", examples=[1048576])


class AuditQuery(RequestModel):
    """Which events are listed."""

    export_id: Word = Field("", description="Events of this export.")
    page: PageToken | None = None
    limit: Limit = 100


MAX_WAIT_SECONDS = 300
_WAIT = re.compile(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:;.*)?', re.IGNORECASE)


async def wait_seconds(
    request: HttpRequest,
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
