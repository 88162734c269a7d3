"""Who may ask, and for what: access keys, accounts, regions and zones."""

import re

from cloudmanager.testing.cloud.ec2 import errors
from cloudmanager.testing.cloud.ec2.state import Scope
from cloudmanager.testing.cloud.wire import Request

ACCOUNTS = {"AKIAEMULATED00000001": "111122223333", "AKIAEMULATED00000002": "444455556666"}
"""Access key → account. Any secret will do: a signature must be there, and is not verified."""
HOME_ACCOUNT = "111122223333"
HOME_ZONE = "us-east-1a"
ZONES = {
    "us-east-1": ("us-east-1a", "us-east-1b"),
    "us-west-2": ("us-west-2a",),
    "eu-west-1": ("eu-west-1a",),
}
"""The regions that exist, and their zones."""
_SIGNATURE = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/\d{8}/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request,"
    r" ?SignedHeaders=[^,]+, ?Signature=[0-9a-f]{64}"
)


def signer(request: Request) -> tuple[Scope, str]:
    """Who signed for which region and service. Raises what an unsigned or unknown caller is answered."""
    signature = _SIGNATURE.fullmatch(request.headers.get("Authorization") or "")
    if signature is None or "X-Amz-Date" not in request.headers:
        raise errors.no_signature()
    account, region, service = ACCOUNTS.get(signature["key"]), signature["region"], signature["service"]
    if account is None or region not in ZONES or service not in ("ec2", "sts"):
        raise errors.auth_failure()
    return Scope(account, region), service


def access_key(account: str) -> str:
    return next(key for key, owner in ACCOUNTS.items() if owner == account)


def region_of(zone: str) -> str:
    return zone[:-1]


def known_zone(location: str) -> str:
    """The home zone where none is named. Raises ValueError."""
    zone = location or HOME_ZONE
    if zone not in ZONES.get(region_of(zone), ()):
        raise ValueError(f"there is no zone {zone!r} in the emulated EC2")
    return zone
