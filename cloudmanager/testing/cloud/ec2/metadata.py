"""The instance metadata service, version 2: a token by PUT first, then everything by GET with the token.

Version 1, a GET without a token, is refused, as on an instance whose metadata options require tokens.
"""

import json
import secrets
from datetime import UTC, datetime, timedelta

from cloudmanager.testing.cloud.ec2.accounts import access_key
from cloudmanager.testing.cloud.ec2.state import Instance
from cloudmanager.testing.cloud.wire import Request, Response

_TOKEN_HEADER = "X-aws-ec2-metadata-token"  # noqa: S105 - the name of a header
_TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
_MOST_TTL_SECONDS = 21_600
_ROLE = "emulated-role"


class MetadataService:
    """For all instances: each sees its own at `http://169.254.169.254`, here at a path of its own."""

    def __init__(self) -> None:
        self._tokens: dict[str, tuple[str, datetime]] = {}

    def answer(self, instance: Instance, path: str, request: Request) -> Response:
        """`path` is what the instance asked for, `latest/api/token`."""
        if path == "latest/api/token":
            return self._token(instance, request)
        if not self._knows(instance, request.headers.get(_TOKEN_HEADER)):
            return Response.of_text(401, "Unauthorized")
        if request.method != "GET":
            return Response.of_text(405, "Method Not Allowed")
        text = self._document(instance, path)
        return Response.of_text(200, text) if text is not None else Response.of_text(404, "Not Found")

    def _token(self, instance: Instance, request: Request) -> Response:
        if request.method != "PUT":
            return Response.of_text(405, "Method Not Allowed")
        ttl = request.headers.get(_TTL_HEADER) or ""
        if not (ttl.isdecimal() and 1 <= int(ttl) <= _MOST_TTL_SECONDS):
            return Response.of_text(400, "Bad Request")
        if request.headers.get("X-Forwarded-For"):
            return Response.of_text(403, "Forbidden")
        token = secrets.token_urlsafe(40)
        self._tokens[token] = (instance.id, datetime.now(UTC) + timedelta(seconds=int(ttl)))
        return Response(200, token.encode(), {"Content-Type": "text/plain", _TTL_HEADER: ttl})

    def _knows(self, instance: Instance, token: str | None) -> bool:
        owner, expires = self._tokens.get(token or "", ("", datetime.min.replace(tzinfo=UTC)))
        return owner == instance.id and datetime.now(UTC) < expires

    def _document(self, instance: Instance, path: str) -> str | None:
        documents = {
            "latest/dynamic/instance-identity/document": json.dumps(_identity(instance)),
            "latest/meta-data/instance-id": instance.id,
            "latest/meta-data/instance-type": instance.type.name,
            "latest/meta-data/placement/availability-zone": instance.zone,
            "latest/meta-data/placement/region": instance.scope.region,
            "latest/meta-data/iam/security-credentials/": _ROLE,
            f"latest/meta-data/iam/security-credentials/{_ROLE}": json.dumps(_credentials(instance)),
        }
        return documents.get(path)


def _identity(instance: Instance) -> dict[str, object]:
    return {
        "accountId": instance.scope.account,
        "architecture": "x86_64",
        "availabilityZone": instance.zone,
        "imageId": "ami-0123456789abcdef0",
        "instanceId": instance.id,
        "instanceType": instance.type.name,
        "pendingTime": _written(instance.launched),
        "privateIp": instance.private_ip,
        "region": instance.scope.region,
        "version": "2017-09-30",
    }


def _written(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _credentials(instance: Instance) -> dict[str, str]:
    expires = datetime.now(UTC) + timedelta(hours=6)
    return {
        "Code": "Success",
        "LastUpdated": _written(datetime.now(UTC)),
        "Type": "AWS-HMAC",
        "AccessKeyId": access_key(instance.scope.account),
        "SecretAccessKey": secrets.token_urlsafe(30),
        "Token": secrets.token_urlsafe(60),
        "Expiration": _written(expires),
    }
