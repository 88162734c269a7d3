"""Who calls: managed identities, the tokens that they were given, and what their role allows."""

import secrets
import uuid
from dataclasses import dataclass, field
from email.message import Message
from fnmatch import fnmatchcase

from cloudmanager.testing.cloud.azure import errors

LIFE_SECONDS = 86400


@dataclass
class Identity:
    """A managed identity. `actions` is its role; None: everything."""

    client_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    actions: tuple[str, ...] | None = None

    def may(self, action: str) -> bool:
        if self.actions is None:
            return True
        return any(fnmatchcase(action.casefold(), allowed.casefold()) for allowed in self.actions)


class Accounts:
    """The tokens that were given out."""

    def __init__(self) -> None:
        self._tokens: dict[str, Identity] = {}

    @property
    def tokens(self) -> list[str]:
        """All that are in force."""
        return list(self._tokens)

    def issue(self, identity: Identity) -> str:
        token = secrets.token_urlsafe(32)
        self._tokens[token] = identity
        return token

    def revoke_all(self) -> None:
        self._tokens.clear()

    def authenticate(self, headers: Message) -> Identity:
        """Raises ArmError."""
        header = headers.get("Authorization")
        if not header:
            raise errors.no_token()
        scheme, _, token = header.partition(" ")
        identity = self._tokens.get(token) if scheme.casefold() == "bearer" else None
        if identity is None:
            raise errors.bad_token()
        return identity


def authorize(identity: Identity, action: str, scope: str) -> None:
    """Raises ArmError."""
    if not identity.may(action):
        raise errors.forbidden(identity.client_id, action, scope)


def authorize_link(identity: Identity, action: str, scope: str, linked_action: str, linked: str) -> None:
    """For an action that needs another one on a second resource. Raises ArmError."""
    if not identity.may(linked_action):
        raise errors.forbidden_link(identity.client_id, action, scope, linked_action, linked)
