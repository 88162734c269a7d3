"""cloudmanager token"""

import hashlib
import json
import secrets

PREFIX = "cloudmanager_"
"""The prefix by which people and secret scanners recognise a token in a log or a repository."""


def run(*, as_json: bool) -> None:
    token = PREFIX + secrets.token_urlsafe(32)
    digest = hashlib.sha256(token.encode()).hexdigest()
    if as_json:
        print(json.dumps({"token": token, "token_sha256": digest}))
        return
    print("# Give this to the client; it is kept nowhere. The client sends: Authorization: Bearer …")
    print(token)
    print("# Put this into [server] of the configuration:")
    print(f'token_sha256 = ["{digest}"]')
