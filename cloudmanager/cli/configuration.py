"""Which configuration a command uses."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cloudmanager.cli.extras import extra

if TYPE_CHECKING:
    from cloudmanager.core.plugins import Plugins
    from cloudmanager.core.settings import Settings

VARIABLE = "CLOUDMANAGER_CONFIG"
PLACES = (Path("cloudmanager.toml"), Path("/etc/cloudmanager/cloudmanager.toml"))


def find(option: Path | None) -> Path | None:
    """--config, else $CLOUDMANAGER_CONFIG, else the first of PLACES that is there, else None: the defaults."""
    if option:
        return option
    if named := os.environ.get(VARIABLE):
        return Path(named)
    return next((place for place in PLACES if _is_there(place)), None)


def _is_there(place: Path) -> bool:
    try:
        place.lstat()
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
