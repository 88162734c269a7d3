"""The certificates that a client shows and trusts, for servers that ask for one (`nbd.tls = "x509"`)."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cloudmanager.client.errors import InvalidSetup

if TYPE_CHECKING:
    from cloudmanager.transfer.libnbd import Address

VARIABLE = "CLOUDMANAGER_CERTIFICATES"
"""The environment variable that names the directory."""
FILES = ("ca-cert.pem", "client-cert.pem", "client-key.pem")
"""As QEMU and libnbd call them. A revocation list, ca-crl.pem, may be there too."""


def directory_of(address: "Address", environment: Mapping[str, str] = os.environ) -> Path | None:
    """Where those for an address are: what it says itself, else what the environment says.

    None: nobody says it, or none are wanted, because there is a key or no TLS.

    Raises InvalidSetup when a file is missing there.
    """
    named = address.certificates or environment.get(VARIABLE)
    if not address.uri.startswith("nbds") or address.credentials is not None or not named:
        return None
    directory = Path(named).absolute()
    missing = [name for name in FILES if not os.access(directory / name, os.R_OK)]
    if missing:
        raise InvalidSetup(f"{directory} has no {missing[0]} that can be read: TLS needs {', '.join(FILES)} there.")
    return directory
