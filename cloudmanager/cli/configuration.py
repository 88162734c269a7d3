"""Which configuration a command uses."""

import json
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from cloudmanager.cli.extras import extra
from cloudmanager.core.errors import ConfigurationError

if TYPE_CHECKING:
    from cloudmanager.core.plugins import Plugins
    from cloudmanager.core.settings import Settings

VARIABLE = "CLOUDMANAGER_CONFIG"
SEARCH_PATHS = (Path("cloudmanager.toml"), Path("/etc/cloudmanager/cloudmanager.toml"))
_LONGEST_BYTES = 1024 * 1024
_LISTEN = "CLOUDMANAGER_SERVER__LISTEN"
_SERVER = "CLOUDMANAGER_SERVER"
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - compared, not bound
"""Who listens on every address is reached on loopback."""
_ADVICE = "Say where the service listens by --url or $CLOUDMANAGER_URL."


def find(option: Path | None) -> Path | None:
    """--config, else $CLOUDMANAGER_CONFIG, else the first of SEARCH_PATHS that exists, else None: the defaults."""
    if option:
        return option
    if named := os.environ.get(VARIABLE):
        return Path(named)
    return next((path for path in SEARCH_PATHS if _is_there(path)), None)


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # reading it will say what is wrong
    return True


def load(option: Path | None) -> "Settings":
    """The configuration, checked. Raises ConfigurationError."""
    with extra("server"):
        from cloudmanager.core import settings
    return settings.load(find(option))


def load_plugins(settings: "Settings | None" = None) -> "Plugins":
    """Every plugin, and the providers of these settings. Raises ConfigurationError, PluginError."""
    with extra("server"):
        from cloudmanager.core.plugins import Plugins
    plugins = Plugins()
    if settings:
        plugins.configure(settings.providers)
    return plugins


def own_service() -> str | None:
    """The URL at which this machine's configuration lets the service listen; None where there is no configuration.

    This needs none of the server's packages. Raises ConfigurationError: a request that went to
    another service than the one that is meant would be worse.
    """
    listen = _listen_of_environment() or _listen_of_file(find(None))
    return None if listen is None else _url(listen)


def _listen_of_environment() -> object:
    variables = {name.upper(): value for name, value in os.environ.items()}
    if _LISTEN in variables:
        return variables[_LISTEN]
    try:
        table = json.loads(variables.get(_SERVER, "{}"))
    except ValueError:
        raise ConfigurationError(f"{_SERVER} is not JSON. {_ADVICE}") from None
    return table.get("listen") if isinstance(table, dict) else None


def _listen_of_file(path: Path | None) -> object:
    if path is None:
        return None
    try:
        _require_trusted(path)
        with path.open("rb") as file:
            tables = tomllib.loads(file.read(_LONGEST_BYTES).decode())
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}. {_ADVICE}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not valid TOML. `cloudmanager config check` says more.") from error
    server = tables.get("server", {})
    return server.get("listen") if isinstance(server, dict) else None


def _require_trusted(path: Path) -> None:
    """A file that somebody else has left in this directory must not say where a token is sent."""
    found = path.stat()
    if path in SEARCH_PATHS and (found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o002):
        raise ConfigurationError(f"{path.absolute()} is another user's, or everybody may write it. {_ADVICE}")


def _url(listen: object) -> str:
    if isinstance(listen, str):
        if listen.startswith("unix:"):
            return listen
        host, colon, port = listen.rpartition(":")
        name = host.removeprefix("[").removesuffix("]")
        name = _EVERYWHERE.get(name, name)
        if colon and port.isdecimal() and int(port):
            return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
    raise ConfigurationError(f"The configuration does not say at which address the service listens. {_ADVICE}")
