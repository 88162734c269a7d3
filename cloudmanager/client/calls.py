"""What the service offers, one function for each route."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar
from urllib.parse import quote

from cloudmanager.client.errors import UnexpectedAnswer
from cloudmanager.client.exchange import ANSWER_SECONDS, Call, Reply, Request, parse, read, with_retries
from cloudmanager.client.model import (
    Access,
    Attachment,
    AuditEvent,
    Disk,
    Export,
    ExportState,
    Health,
    Node,
    Provider,
    Tls,
)

Item = TypeVar("Item")

LONGEST_WAIT_SECONDS = 300
"""The service waits no longer in one request."""
PAGE_SIZE = "1000"
_ADDRESS = re.compile(r"nbds?://(?:[\w.-]+@)?(?:\[[\w:.%]+\]|[^\s/?#@:%\[\]\\\x00-\x1f]+)(?::\d{1,5})?/[\w.~%-]+")
"""No query, which could name files of this machine; no socket, no file, no other protocol."""
_KEY = re.compile(r"[0-9A-Fa-f]{16,1024}")
_USER = re.compile(r"[\w.-]{1,256}")
_NOT_ASKED = "What answers is no cloudmanager, or it was tampered with on the way."
Query: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ClaimRequest:
    """An export to ask for. The key makes asking again safe: the same key and request give the same export."""

    disk: str
    access: Access
    holder: str
    ttl_seconds: int | None
    note: str
    key: str = ""

    def request(self, answer_seconds: float = ANSWER_SECONDS) -> Request:
        body: dict[str, object] = {"disk": self.disk, "access": self.access.value, "holder": self.holder}
        if self.ttl_seconds is not None:
            body["ttl_seconds"] = self.ttl_seconds
        if self.note:
            body["note"] = self.note
        return Request(
            "POST",
            "/v1/exports",
            body=body,
            headers={"Idempotency-Key": f'"{self.key}"'},
            answer_seconds=answer_seconds,
        )


def new_key() -> str:
    return os.urandom(16).hex()


@dataclass(frozen=True)
class ListRequest(Generic[Item]):
    """A list of the service, which is read page by page."""

    path: str
    kind: type[Item]
    query: Query = ()


@dataclass(frozen=True)
class ListPage(Generic[Item]):
    items: tuple[Item, ...]
    next_page: str | None


def claim(wanted: ClaimRequest, retry_seconds: float) -> Call[Export]:
    return read_wanted((yield from with_retries(wanted.request(), retry_seconds)), wanted)


def get(export_id: str, retry_seconds: float, wait_seconds: int = 0) -> Call[Export]:
    return read_export((yield from with_retries(look_request(export_id, wait_seconds), retry_seconds)), export_id)


def renew(export_id: str, ttl_seconds: int | None, retry_seconds: float) -> Call[Export]:
    return read_export((yield from with_retries(renew_request(export_id, ttl_seconds), retry_seconds)), export_id)


def release(export_id: str, retry_seconds: float) -> Call[Export]:
    return read_export((yield from with_retries(release_request(export_id), retry_seconds)), export_id)


def force_release(export_id: str, by: str, reason: str, retry_seconds: float) -> Call[Export]:
    reply = yield from _action(f"exports/{_segment(export_id)}/force-release", by, reason, retry_seconds)
    return read_export(reply, export_id)


def act_on_provider(action: str, name: str, by: str, reason: str, retry_seconds: float) -> Call[Provider]:
    """`order`: pause or resume."""
    reply = yield from _action(f"providers/{_segment(name)}/{action}", by, reason, retry_seconds)
    return read(Provider, parse(reply.body), "provider")


def act_on_node(action: str, name: str, by: str, reason: str, retry_seconds: float) -> Call[Node]:
    """`order`: drain or undrain."""
    reply = yield from _action(f"nodes/{_segment(name)}/{action}", by, reason, retry_seconds)
    return read(Node, parse(reply.body), "node")


def disk(disk_id: str, retry_seconds: float) -> Call[Disk]:
    provider, _, native_id = disk_id.partition(":")
    path = f"/v1/disks/{_segment(provider)}/{'/'.join(map(_segment, native_id.split('/')))}"
    reply = yield from with_retries(Request("GET", path), retry_seconds)
    return read(Disk, parse(reply.body), "disk")


def health() -> Call[Health]:
    reply = yield from with_retries(Request("GET", "/readyz", expected=frozenset({200, 503})), 0)
    return read(Health, parse(reply.body), "health")


def page(wanted: ListRequest[Item], token: str | None, retry_seconds: float) -> Call[ListPage[Item]]:
    query = wanted.query if token is None else (*wanted.query, ("page", token))
    reply = yield from with_retries(Request("GET", wanted.path, query), retry_seconds)
    content = read(_Page, parse(reply.body), "list")
    items = tuple(read(wanted.kind, item, wanted.kind.__name__.lower()) for item in content.items)
    for item in items:
        if isinstance(item, Export):
            _checked(item)
    if content.next_page is not None and content.next_page == token:
        raise UnexpectedAnswer("The list goes on with the page that was just read, and would never end.")
    return ListPage(items, content.next_page)


def exports(
    disk: str, holder: str, access: Access | str | None, states: Iterable[ExportState | str], node: str
) -> ListRequest[Export]:
    query = _given(disk=disk, holder=holder, access="" if access is None else Access(access).value, node=node)
    of_states = tuple(("state", ExportState(state).value) for state in states)
    return ListRequest("/v1/exports", Export, (*query, *of_states, ("limit", PAGE_SIZE)))


def disks(text: str, provider: str, labels: Mapping[str, str], location: str, state: str) -> ListRequest[Disk]:
    query = _given(q=text, provider=provider, location=location, state=state)
    return ListRequest("/v1/disks", Disk, (*query, *(("label", f"{key}={value}") for key, value in labels.items())))


def attachments() -> ListRequest[Attachment]:
    return ListRequest("/v1/attachments", Attachment)


def providers() -> ListRequest[Provider]:
    return ListRequest("/v1/providers", Provider)


def nodes() -> ListRequest[Node]:
    return ListRequest("/v1/nodes", Node)


def audit(export_id: str) -> ListRequest[AuditEvent]:
    return ListRequest("/v1/audit", AuditEvent, (*_given(export_id=export_id), ("limit", PAGE_SIZE)))


def read_export(reply: Reply, export_id: str = "") -> Export:
    """Raises UnexpectedAnswer, also for another export than `export_id`."""
    export = _checked(read(Export, parse(reply.body), "export"))
    if export_id and export.id != export_id:
        raise UnexpectedAnswer(f"The answer is about another export than {export_id}. {_NOT_ASKED}")
    return export


def read_wanted(reply: Reply, wanted: ClaimRequest) -> Export:
    """The export that was asked for. Raises UnexpectedAnswer: another access or disk would be the wrong bytes."""
    export = read_export(reply)
    if (export.disk, export.access) != (wanted.disk, wanted.access):
        raise UnexpectedAnswer(f"The answer is not an export of {wanted.disk}, {wanted.access}. {_NOT_ASKED}")
    return export


def _checked(export: Export) -> Export:
    """Refuses an address that no service gives: of another kind, in the clear, or with files of this machine in it."""
    if export.uri is None:
        return export
    is_encrypted = export.uri.startswith("nbds:")
    if not _ADDRESS.fullmatch(export.uri):
        raise UnexpectedAnswer(f"The export's address is none of the form nbd://host:port/name. {_NOT_ASKED}")
    if export.tls is not None and is_encrypted is (export.tls is Tls.OFF):
        raise UnexpectedAnswer(f"The export's address does not fit its TLS, {export.tls}. {_NOT_ASKED}")
    credentials = export.credentials
    if credentials and not (is_encrypted and credentials.type == "tls-psk" and _KEY.fullmatch(credentials.key)):
        raise UnexpectedAnswer(f"The export's credentials are no key for TLS. {_NOT_ASKED}")
    if credentials and not _USER.fullmatch(credentials.username):
        raise UnexpectedAnswer(f"The export's credentials have an impossible name. {_NOT_ASKED}")
    return export


def look_request(export_id: str, wait_seconds: int = 0, answer_seconds: float = ANSWER_SECONDS) -> Request:
    headers = {"Prefer": f"wait={wait_seconds}"} if wait_seconds else {}
    path = f"/v1/exports/{_segment(export_id)}"
    return Request("GET", path, headers=headers, answer_seconds=wait_seconds + answer_seconds)


def renew_request(export_id: str, ttl_seconds: int | None, answer_seconds: float = ANSWER_SECONDS) -> Request:
    """Repeatable, for the life is counted from the renewal."""
    body = {} if ttl_seconds is None else {"ttl_seconds": ttl_seconds}
    return Request("POST", f"/v1/exports/{_segment(export_id)}/renew", body=body, answer_seconds=answer_seconds)


def release_request(export_id: str, answer_seconds: float = ANSWER_SECONDS) -> Request:
    return Request("DELETE", f"/v1/exports/{_segment(export_id)}", answer_seconds=answer_seconds)


def _action(path: str, by: str, reason: str, retry_seconds: float) -> Call[Reply]:
    """An operator's. Given twice, it changes nothing more."""
    request = Request("POST", f"/v1/{path}", body=dict(_given(by=by, reason=reason)))
    return (yield from with_retries(request, retry_seconds))


@dataclass(frozen=True)
class _Page:
    items: tuple[object, ...]
    next_page: str | None = None


def _given(**parameters: str) -> Query:
    return tuple((name, value) for name, value in parameters.items() if value)


def _segment(text: str) -> str:
    """Of a path. `.` and `..` are escaped too: they would be taken for steps to another route."""
    quoted = quote(text, safe=":")
    return quoted.replace(".", "%2E") if quoted in (".", "..") else quoted
