"""cloudmanager token"""

import hashlib
import secrets

PREFIX = "cloudmanager_"
"""By it, a token is known for what it is in a log or a repository."""


def run() -> None:
    token = PREFIX + secrets.token_urlsafe(32)
    print("# Give this to the client; it is kept nowhere. The client sends: Authorization: Bearer …")
    print(token)
    print("# Put this into [server] of the configuration:")
    print(f'token_sha256 = ["{hashlib.sha256(token.encode()).hexdigest()}"]')
