"""A request that was authenticated and checked, and lists answered page by page."""

import base64
import binascii
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from cloudmanager.testing.cloud.azure import accounts, errors, schema
from cloudmanager.testing.cloud.azure.accounts import Identity
from cloudmanager.testing.cloud.azure.routes import Match
from cloudmanager.testing.cloud.azure.state import Inventory
from cloudmanager.testing.cloud.faults import Fault
from cloudmanager.testing.cloud.wire import Request, Response

Record = TypeVar("Record")


@dataclass(frozen=True)
class RequestContext:
    request: Request
    match: Match
    version: str
    identity: Identity
    seen: Inventory
    """What a read is answered with."""
    fault: Fault | None

    @property
    def subscription(self) -> str:
        return self.match.names["subscription"]

    def body(self, model: str) -> dict[str, Any]:
        """The request's document, checked against the schema. Raises ArmError."""
        try:
            document = self.request.json()
        except ValueError as error:
            raise errors.bad_json(str(error)) from None
        schema.check(document, model)
        return dict(document)

    def need_link(self, linked_action: str, linked: str) -> None:
        """A permission on a second resource. Raises ArmError."""
        action = f"Microsoft.Compute/{self.match.route.action}"
        accounts.authorize_link(self.identity, action, self.match.scope, f"Microsoft.Compute/{linked_action}", linked)

    def page(
        self,
        records: Iterable[Record],
        key: Callable[[Record], str],
        shown: Callable[[Record], object],
        *,
        size: int,
        url: str,
    ) -> Response:
        """`records` come in the order of their keys; the token is the key of the last one that was answered."""
        after = self._skip_token()
        rest = [record for record in records if key(record) > after]
        document: dict[str, object] = {"value": [shown(record) for record in rest[:size]]}
        if len(rest) > size:
            token = base64.urlsafe_b64encode(key(rest[size - 1]).encode()).decode()
            document["nextLink"] = (
                f"{url}{quote(self.request.path)}?api-version={self.version}&$skiptoken={quote(token)}"
            )
        return Response.of_json(200, document)

    def _skip_token(self) -> str:
        token = self.request.query.get("$skiptoken", "")
        try:
            return base64.urlsafe_b64decode(token).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise errors.bad_skip_token() from None
