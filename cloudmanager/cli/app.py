"""The commands."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import cloudmanager
from cloudmanager.cli import admin, configuration
from cloudmanager.cli.client import commands as client_commands
from cloudmanager.cli.light_command import LightGroup

app = typer.Typer(
    cls=LightGroup,
    help="Any disk, in any cloud, as one NBD address.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(client_commands.app)
config_app = typer.Typer(help="The configuration file.", no_args_is_help=True)
app.add_typer(config_app, name="config")
store_app = typer.Typer(help="The store: what must survive a crash.", no_args_is_help=True)
app.add_typer(store_app, name="store")
app.add_typer(admin.app, name="admin")
testing_app = typer.Typer(help="For authors of plugins and of clients.", no_args_is_help=True)
app.add_typer(testing_app, name="testing")


class ProviderCloud(StrEnum):
    """As providers call them."""

    GCE = "gce"
    AWS = "aws"
    AZURE = "azure"


class EmulatedCloud(StrEnum):
    """As their APIs are called."""

    GCE = "gce"
    EC2 = "ec2"
    AZURE = "azure"


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help=f"Configuration file. Otherwise ${configuration.VARIABLE}, ./cloudmanager.toml, "
        "/etc/cloudmanager/cloudmanager.toml, or the defaults.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for scripts.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"cloudmanager {cloudmanager.__version__}")
        raise typer.Exit


@app.callback(epilog="Exit codes: 0 done, 1 it could not be done, 2 wrong usage, 3 a check found a problem.")
def root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The service to ask. Otherwise $CLOUDMANAGER_URL, or this machine's own."),
    ] = None,
) -> None:
    """Any disk, in any cloud, as one NBD address."""
    client_commands.choose_service(url)


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Run the service until SIGTERM or Ctrl-C. Running exports continue without it."""
    from cloudmanager.api import serve as serve_api

    serve_api(configuration.load(config))


@app.command()
def demo(
    cloud: Annotated[
        ProviderCloud | None,
        typer.Option(help="Through an emulated cloud, its real SDK and a real block device. Needs root."),
    ] = None,
) -> None:
    """Show an export from end to end on this machine: request a disk over HTTP, read it over NBD, release it."""
    if cloud:
        from cloudmanager.cli.demo.cloud import run as run_in_cloud

        raise typer.Exit(run_in_cloud(cloud))
    from cloudmanager.cli.demo import run

    raise typer.Exit(run())


@app.command()
def doctor(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Check this machine and each provider, and say what to do about each problem."""
    from cloudmanager.cli.doctor import run

    raise typer.Exit(run(config, as_json=json))


@app.command()
def plugins(config: ConfigOption = None, json: JsonOption = False) -> None:
    """List the plugins that are loaded, where each comes from, and the providers that are configured."""
    from cloudmanager.cli.plugins import run

    run(configuration.load(config), as_json=json)


@app.command("new-provider")
def new_provider(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The provider's type, as a configuration will name it.")],
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIRECTORY", help="Where to write it: ./cloudmanager-NAME.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a package with a working provider plugin and its tests, as a start for your own."""
    from cloudmanager.cli.new_provider import run

    run(name, directory, as_json=json)


@app.command()
def token(json: JsonOption = False) -> None:
    """Make a bearer token, and the configuration line that accepts it. Nothing is stored."""
    from cloudmanager.cli.token import run

    run(as_json=json)


@store_app.command("check")
def store_check(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A backup. Otherwise the store itself.")] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Check the store without changing it: its file, its schema, and that claims, exports and attachments agree.

    The service may run. Exit code 3 says that something is wrong.
    """
    from cloudmanager.cli.store import run_check

    raise typer.Exit(run_check(config, file, as_json=json))


@store_app.command("backup")
def store_backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it. It must not exist.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Write a complete and checked copy of the store, while the service runs."""
    from cloudmanager.cli.store import run_backup

    run_backup(config, file, as_json=json)


@store_app.command("restore")
def store_restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `store backup` has written.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Replace the store by a backup, while the service does not run. The previous store is kept beside it.

    What is attached is not ours any more: it is used, and never detached. Exports that the backup does not know end
    when the service starts.
    """
    from cloudmanager.cli.store import run_restore

    run_restore(config, file, as_json=json)


@testing_app.command("cloud")
def emulate_cloud(
    kind: Annotated[EmulatedCloud, typer.Argument(help="Which cloud.")],
    directory: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY", help="For the bytes of its disks. Otherwise a temporary one, deleted at the end."
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of its API, on 127.0.0.1. 0: any that is free.")] = 0,
    pace: Annotated[float, typer.Option(min=0, help="1 takes the cloud's time for everything, 0 none.")] = 1.0,
) -> None:
    """Run an emulated cloud until SIGTERM or Ctrl-C: its own protocol, real block devices, faults on demand.

    It prints the configuration and the environment with which a cloudmanager uses it. Needs root.
    """
    from cloudmanager.cli.testing_cloud import run

    run(kind, directory, port=port, pace=pace)


@config_app.command("check")
def config_check(
    path: Annotated[Path | None, typer.Argument(metavar="FILE", help="Configuration file.")] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Read the configuration as the service would, and say what was understood."""
    from cloudmanager.cli.check import run

    run(path or config, as_json=json)


@config_app.command("example")
def config_example() -> None:
    """Print a commented configuration file with every option of the service and of each provider type."""
    print(_documentation("example"), end="")


@config_app.command("reference", hidden=True)
def config_reference() -> None:
    """Print docs/configuration.md."""
    print(_documentation("reference"), end="")


def _documentation(form: str) -> str:
    plugins = configuration.load_plugins()
    from cloudmanager.cli.example import example
    from cloudmanager.cli.reference import reference
    from cloudmanager.core.options import sections

    write = example if form == "example" else reference
    return write(sections(plugins.provider_types))
