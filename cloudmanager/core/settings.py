"""The configuration: a TOML file plus `CLOUDMANAGER_…` environment variables, which win.

`CLOUDMANAGER_SERVER__LISTEN=unix:/run/cm.sock` sets `listen` of `[server]`. Everything is checked at start.
"""

import difflib
import ipaddress
import os
import socket
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from cloudmanager.core.disklocks import default_directory
from cloudmanager.core.errors import ConfigurationError
from cloudmanager.transfer.endpoint import is_link_local

ENVIRONMENT_PREFIX = "CLOUDMANAGER_"
CLIENT_VARIABLES = frozenset(
    f"CLOUDMANAGER_{name}" for name in ("CONFIG", "URL", "TOKEN", "HOLDER", "CERTIFICATES", "RUN_DIR")
)
"""Read by the command line and the client, not part of the configuration."""


class Table(BaseModel):
    """A table of the configuration. An unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _ports(value: str) -> str:
    parse_ports(value)
    return value


def parse_ports(text: str) -> range:
    """`"10900-11899"` as a range. Raises ValueError."""
    first, dash, last = text.partition("-")
    if not (dash and first.strip().isdecimal() and last.strip().isdecimal()):
        raise ValueError('write a port range as "10900-11899"')
    ports = range(int(first), int(last) + 1)
    if not ports or ports[0] < 1 or ports[-1] > 65535:
        raise ValueError("ports go from 1 to 65535, the lower one first")
    return ports


def _address(value: str) -> str:
    parse_listen(value)
    return value


LONGEST_SOCKET_PATH_BYTES = 107
"""unix(7): sun_path, without its NUL."""


def parse_listen(text: str) -> Path | tuple[str, int]:
    """`"127.0.0.1:8600"` or `"[::1]:8600"` as (host, port); `"unix:/run/cm.sock"` as a path. Raises ValueError."""
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:"))
        if not path.is_absolute():
            raise ValueError("a unix socket needs an absolute path: unix:/run/cloudmanager.sock")
        if (length := len(os.fsencode(path))) > LONGEST_SOCKET_PATH_BYTES:
            raise ValueError(
                f"the path of a unix socket has {LONGEST_SOCKET_PATH_BYTES} bytes at most, and this one has {length}: "
                "choose a shorter one, such as unix:/run/cloudmanager.sock"
            )
        return path
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) <= 65535):
        raise ValueError('write an address as "127.0.0.1:8600", "[::1]:8600" or "unix:/run/cloudmanager.sock"')
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class ServerSettings(Table):
    """The service and its HTTP interface."""

    listen: Annotated[str, AfterValidator(_address)] = Field(
        "127.0.0.1:8600",
        description='Address of the HTTP interface: "host:port", or "unix:/run/cloudmanager.sock". Anything except '
        "loopback and a unix socket requires a token.",
    )
    state_dir: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        Path("/var/lib/cloudmanager"),
        description="Directory of the store and of the files of running exports. One service per directory.",
    )
    node: str = Field(
        default_factory=socket.gethostname,
        description="Name of this machine in a fleet. Default: its host name. Only one live service can have a name.",
        json_schema_extra={"example": "worker-1"},
    )
    token_sha256: tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...] = Field(
        (),
        description="SHA-256 of each accepted bearer token. `cloudmanager token` makes a token and this line.",
    )
    lock_dir: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        default_factory=default_directory,
        description="Directory of the locks that keep the services of this machine from detaching or writing disks "
        "that another one serves. All services use the same directory; containers mount it from the host. "
        "Default: /run/lock/cloudmanager for root, cloudmanager/lock in $XDG_RUNTIME_DIR for other users.",
        json_schema_extra={"example": "/run/lock/cloudmanager"},
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least severe messages that are logged."
    )
    shutdown_seconds: float = Field(
        25,
        gt=0,
        description="Time limit for ending after SIGTERM, whatever hangs. A second signal ends the service at once.",
    )


class StoreSettings(Table):
    """Where the service keeps what must survive a crash."""

    url: str = Field(
        "",
        description="SQLAlchemy URL. Empty: SQLite in state_dir. For a fleet: "
        '"postgresql+psycopg://cloudmanager@db.example/cloudmanager".',
    )


class NbdSettings(Table):
    """The NBD servers that exports are read from."""

    listen: str = Field(
        "127.0.0.1",
        description='Address that the exports listen on. Beyond loopback: tls = "psk" or "x509", or insecure = true.',
    )
    advertise: str = Field("", description="Host name or address in the addresses that clients get. Default: listen.")
    ports: Annotated[str, AfterValidator(_ports)] = Field("10900-11899", description="Ports, one per export.")
    connections: int = Field(
        32,
        ge=1,
        le=64,
        description="Connections that one export serves at the same time. Others wait with qemu-nbd; nbdkit (see "
        "engine) disconnects them.",
    )
    client_timeout_seconds: int = Field(
        120,
        ge=1,
        le=86400,
        description="A client that cannot be reached for this long, or takes in no answer, has vanished: its "
        "connection is ended, and another client can have its connection slot.",
    )
    tls: Literal["off", "psk", "x509"] = Field(
        "off",
        description='"psk": every export has its own key, in its credentials. "x509": clients and servers '
        "authenticate with certificates of one authority.",
    )
    tls_certificates: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        Path("/etc/cloudmanager/tls"),
        description="Directory with ca-cert.pem, server-cert.pem, server-key.pem and optionally ca-crl.pem, for tls = "
        '"x509".',
    )
    insecure: bool = Field(
        False, description="Export beyond loopback in the clear: anyone on the network can read and change the bytes."
    )
    engine: Literal["auto", "qemu-nbd", "nbdkit"] = Field(
        "auto",
        description="The server for raw disks that are exported read-only and that nobody changes, in a sandbox. With "
        "nbdkit a bad sector is an error of that sector for every client; qemu-nbd 7.2 disconnects those "
        'built on libnbd. "auto": nbdkit if it is installed and connections is 32 or more, so that few '
        "clients are refused, else qemu-nbd. qemu-nbd serves everything else.",
    )
    sandbox: Literal["bubblewrap", "none"] = Field(
        "bubblewrap",
        description='How servers are confined. "none" lets them see this machine\'s files and network.',
    )
    memory_limit_bytes: int = Field(
        2**30,
        ge=2**26,
        description="Memory that one NBD server may allocate. An image that needs more is not served; a server that "
        "needs more later ends and is replaced.",
    )
    cpu_weight: int = Field(
        100,
        ge=1,
        le=10000,
        description="An NBD server's priority when the processors are busy, where control groups can be made. The "
        "default of every control group is 100.",
    )
    start_timeout_seconds: float = Field(30, gt=0, description="Time limit for an NBD server to answer.")

    @property
    def advertised(self) -> str:
        return self.advertise or self.listen

    @property
    def caution(self) -> str:
        """What some clients cannot do with the address that they are given, and what to set; empty when all can."""
        is_ipv6 = ":" in self.advertised
        if is_ipv6 and self.tls != "off":
            return (
                f"with TLS, programs built on libnbd (nbdcopy, nbdinfo, nbdfuse, nbdkit) cannot connect to an IPv6 "
                f"address such as {self.advertised}. Set [nbd] advertise to a host name; cloudmanager's own clients "
                "and QEMU need none."
            )
        if is_ipv6 and is_link_local(self.advertised):
            return (
                f"{self.advertised} is of one link, which other machines call otherwise. Set [nbd] advertise to a host "
                "name or another address."
            )
        return ""

    @property
    def certificates(self) -> Path | None:
        """Their directory, where they are used."""
        return self.tls_certificates if self.tls == "x509" else None

    @model_validator(mode="after")
    def _safe_beyond_loopback(self) -> Self:
        if not is_loopback(self.listen) and self.tls == "off" and not self.insecure:
            options = 'tls = "psk" or "x509", or insecure = true'
            raise ValueError(f'listen = "{self.listen}" is beyond loopback: set {options}')
        return self


class ExportSettings(Table):
    """How long claims and attachments last."""

    default_ttl_seconds: int = Field(3600, ge=1, description="Lifetime of an export whose request sets none.")
    max_ttl_seconds: int = Field(86400, ge=1, description="The longest lifetime that a request or a renewal may set.")
    linger_seconds: int = Field(0, ge=0, description="Keep a disk attached this long after its last export.")
    drain_seconds: float = Field(
        10, ge=0, description="Time that connected clients have to finish once an export is released or has expired."
    )
    attach_deadline_seconds: float = Field(
        900, gt=0, description="An export that is not ready by then fails with the last error."
    )
    scratch_limit_bytes: int = Field(
        10 * 1024**3,
        ge=1024**2,
        description="Maximum size of a scratch export's overlay; further writes get ENOSPC.",
    )
    keep_closed_seconds: int = Field(
        86400, ge=0, description="How long a closed or failed export can still be looked up."
    )
    reconcile_seconds: float = Field(
        5, gt=0, description="Interval at which every disk is compared with the store even if nothing happened."
    )
    on_shutdown: Literal["keep", "close"] = Field(
        "keep",
        description='What happens to exports when the service stops. "keep": they are served without it, and the next '
        'start takes them over. "close": they are released, and their disks are detached, within '
        "server.shutdown_seconds.",
    )

    @model_validator(mode="after")
    def _default_within_maximum(self) -> Self:
        if self.default_ttl_seconds > self.max_ttl_seconds:
            raise ValueError("default_ttl_seconds is greater than max_ttl_seconds")
        return self


class Settings(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    server: ServerSettings = ServerSettings()
    store: StoreSettings = StoreSettings()
    nbd: NbdSettings = NbdSettings()
    exports: ExportSettings = ExportSettings()
    providers: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="A table [providers.NAME] for each provider, with its type and its settings."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings passes all five by name
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, whose content is given to the constructor."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _guarded_beyond_loopback(self) -> Self:
        listen = parse_listen(self.server.listen)
        if isinstance(listen, tuple) and not is_loopback(listen[0]) and not self.server.token_sha256:
            raise ValueError(
                f'server.listen = "{self.server.listen}" is beyond loopback and there is no server.token_sha256: '
                "make a token with `cloudmanager token`"
            )
        return self

    @property
    def store_url(self) -> str:
        return self.store.url or f"sqlite:///{self.server.state_dir / 'cloudmanager.sqlite'}"


def load(path: Path | None, environment: Mapping[str, str] | None = None) -> Settings:
    """Reads and checks the configuration; without a path, the environment and the defaults alone.

    Raises ConfigurationError with a line per mistake.
    """
    _refuse_unknown_variables(os.environ if environment is None else environment)
    return from_tables(_read(path) if path else {}, str(path) if path else "the environment")


def from_tables(tables: Mapping[str, Any], source: str = "the configuration") -> Settings:
    """As `load`, from tables that were read already."""
    try:
        return Settings(**tables)
    except ValidationError as error:
        lines = explain(error, hints=_hints(error))
        raise ConfigurationError(f"{source} is not valid:\n" + "\n".join(f"  {line}" for line in lines)) from error


def explain(error: ValidationError, prefix: str = "", hints: Mapping[str, str] | None = None) -> list[str]:
    """A line per mistake, `server.listen: what is wrong`, without the offending value: it might be a secret."""
    lines = []
    for mistake in error.errors(include_url=False, include_input=False, include_context=False):
        path = ".".join(filter(None, [prefix, *map(str, mistake["loc"])]))
        message = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            message = "there is no such setting" + (hints or {}).get(path, "")
        lines.append(f"{path}: {message}" if path else message)
    return lines


def near_miss(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'listen'?"`, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _hints(error: ValidationError) -> dict[str, str]:
    hints = {}
    for mistake in error.errors(include_url=False, include_input=False, include_context=False):
        if mistake["type"] == "extra_forbidden":
            *tables, key = map(str, mistake["loc"])
            hints[".".join([*tables, key])] = near_miss(key, _table(tables).model_fields)
    return hints


def _table(path: list[str]) -> type[BaseModel]:
    model: type[BaseModel] = Settings
    for name in path:
        model = cast("type[BaseModel]", model.model_fields[name].annotation)
    return model


_LONGEST_BYTES = 1024 * 1024


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_BYTES + 1)
        if len(content) > _LONGEST_BYTES:
            raise ConfigurationError(f"{path} is no configuration: it has more than {_LONGEST_BYTES} bytes.")
        return tomllib.loads(content.decode("utf-8").replace("\r\n", "\n"))
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path} does not exist. `cloudmanager config example > {path}` writes one to start from."
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
    except RecursionError:
        raise ConfigurationError(f"{path} is not valid TOML: it is nested too deeply.") from None
    except ValueError as error:  # what tomllib refuses, bytes that are not UTF-8, numbers of thousands of digits
        raise ConfigurationError(f"{path} is not valid TOML: {error}.") from error


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    tables = {f"{ENVIRONMENT_PREFIX}{name.upper()}": name for name in Settings.model_fields}
    for variable in environment:
        if not variable.upper().startswith(ENVIRONMENT_PREFIX) or variable in CLIENT_VARIABLES:
            continue
        if variable.upper().split("__")[0] not in tables:
            known = [*tables, *CLIENT_VARIABLES]
            raise ConfigurationError(f"{variable} is not a setting{near_miss(variable.split('__')[0], known)}.")
