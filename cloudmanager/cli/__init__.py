"""The command line. Each command imports what it needs when it runs, so that --help is quick and the light
installation (client and command line) has no need of the server's packages.
"""

import sys

from cloudmanager.cli.exits import Exit
from cloudmanager.client.errors import ClientError
from cloudmanager.core.errors import CloudManagerError


def main() -> None:
    """The console script `cloudmanager`. Exit codes: `cloudmanager.cli.exits`."""
    from cloudmanager.cli.app import app

    try:
        app(prog_name="cloudmanager")
    except CloudManagerError as error:
        print(f"cloudmanager: {error.title}.\n{error.detail}", file=sys.stderr)
        sys.exit(Exit.ERROR)
    except ClientError as error:
        print(f"cloudmanager: {error.detail}", file=sys.stderr)
        sys.exit(Exit.ERROR)
