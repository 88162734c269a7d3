"""Credentials that the emulated Google gives out and takes back: access tokens and a service account's key."""

import json
import secrets
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from cloudmanager.testing.cloud.gce.state import UNIVERSE

EMAIL = "worker@emulated.iam.gserviceaccount.com"
_KEY_ID = "emulated-key"


class AccessTokens:
    """Knows which bearer tokens are good."""

    def __init__(self) -> None:
        self.token = f"ya29.{secrets.token_urlsafe(24)}"
        """What the metadata server gives."""
        self.presented: set[str] = set()
        """Every token that was ever shown: none of them may turn up in a log."""

    def accepts(self, authorization: str) -> bool:
        """`authorization` is the header: our own token, or a JWT that our service account signed."""
        scheme, _, token = authorization.partition(" ")
        self.presented.add(token)
        return scheme == "Bearer" and (token == self.token or _is_signed(token))

    def write_key(self, path: Path, project: str, token_url: str) -> Path:
        """A service account's key file, as GOOGLE_APPLICATION_CREDENTIALS names one."""
        document = {
            "type": "service_account",
            "project_id": project,
            "private_key_id": _KEY_ID,
            "private_key": _private_key(),
            "client_email": EMAIL,
            "client_id": "1",
            "token_uri": token_url,
            "universe_domain": UNIVERSE,
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(document))
        return path


def _is_signed(token: str) -> bool:
    from google.auth import jwt  # noqa: PLC0415 - the SDK may be missing when this package is imported

    try:
        claims = jwt.decode(token, certs=_public_key(), verify=True)  # type: ignore[no-untyped-call] # google.auth
    except ValueError:
        return False
    return bool(claims.get("iss") == EMAIL)


@cache
def _key() -> rsa.RSAPrivateKey:
    """One for the whole process: making it takes a while, and it guards nothing."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _private_key() -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return _key().private_bytes(encoding, form, serialization.NoEncryption()).decode()


def _public_key() -> bytes:
    return _key().public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
