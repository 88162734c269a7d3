"""cloudmanager config check"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from cloudmanager.cli import configuration
from cloudmanager.core.errors import ConfigurationError

if TYPE_CHECKING:
    from cloudmanager.core.plugins import Plugins
    from cloudmanager.core.settings import NbdSettings, Settings


def run(option: Path | None, *, as_json: bool) -> None:
    """Reads the configuration, builds the providers, checks the store and the certificates, and prints the result.

    Raises ConfigurationError, PluginError.
    """
    path = configuration.find(option)
    settings = configuration.load(path)
    plugins = configuration.load_plugins(settings)
    _look_at_what_it_names(settings)
    understood = _understood(settings, plugins)
    if as_json:
        facts = [{"subject": subject, "value": value} for subject, value in understood]
        cautions = [caution] if (caution := settings.nbd.caution) else []
        print(json.dumps({"file": str(path) if path else None, "understood": facts, "cautions": cautions}, indent=2))
        return
    print(f"{path} is valid." if path else "There is no configuration file: these are the defaults.")
    for subject, value in understood:
        print(f"  {subject:<10} {value}")
    if settings.nbd.caution:
        print(f"warning: {settings.nbd.caution}")


def _look_at_what_it_names(settings: "Settings") -> None:
    """What would keep the service from starting, or its clients from connecting. Raises ConfigurationError."""
    from cloudmanager.core import certificates
    from cloudmanager.core.model import Severity
    from cloudmanager.core.store.check import newer_schema

    found = [newer_schema(settings.store_url)]
    nbd = settings.nbd
    if nbd.certificates and certificates.check(nbd.certificates, nbd.advertised)[0]:  # they may not be made yet
        found += certificates.findings(nbd.certificates, nbd.advertised)
    problems = [each for each in found if each is not None and each.severity is Severity.PROBLEM]
    if problems:
        raise ConfigurationError("; ".join(f"{each.subject}: {each.seen}. {each.advice}" for each in problems))


def _understood(settings: "Settings", plugins: "Plugins") -> list[tuple[str, str]]:
    exports = settings.exports
    return [
        ("HTTP", f"{settings.server.listen}, {_tokens(settings)}"),
        ("NBD", _nbd(settings)),
        ("exports", f"{exports.default_ttl_seconds} s unless asked otherwise, {exports.max_ttl_seconds} s at most"),
        ("state", str(settings.server.state_dir)),
        ("store", _store(settings)),
        *(("provider", f"{provider.name}, of type {provider.type}") for provider in plugins),
        *([] if settings.providers else [("provider", "none: no disk can be exported yet")]),
    ]


def _tokens(settings: "Settings") -> str:
    count = len(settings.server.token_sha256)
    return f"{count} token{'s' if count > 1 else ''}" if count else "no token needed"


def _nbd(settings: "Settings") -> str:
    nbd = settings.nbd
    sandbox = "bubblewrap" if nbd.sandbox == "bubblewrap" else "no"
    return f"{nbd.listen} (clients use {nbd.advertised}), ports {nbd.ports}, {_link(nbd)}, {sandbox} sandbox"


def _link(nbd: "NbdSettings") -> str:
    match nbd.tls:
        case "off":
            return "in the clear"
        case "psk":
            return "TLS with a key for each export"
        case "x509":
            return f"TLS with the certificates of {nbd.certificates}"


def _store(settings: "Settings") -> str:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(settings.store_url).render_as_string(hide_password=True)
    except ArgumentError:
        raise ConfigurationError("store.url: write it as postgresql+psycopg://USER@HOST/DATABASE.") from None
