"""cloudmanager admin: an operator's actions on a running service."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from cloudmanager.cli.client.service import named
from cloudmanager.cli.exits import Exit

if TYPE_CHECKING:
    from cloudmanager.client import CloudManager, Node, Provider
    from cloudmanager.client.model import MaintenanceAction

app = typer.Typer(help="Orders to a running service: cut off, pause, drain.", no_args_is_help=True)

ByOption = Annotated[
    str, typer.Option(metavar="NAME", help="Who does it. Otherwise $CLOUDMANAGER_HOLDER, or user and host.")
]
ReasonOption = Annotated[str, typer.Option(metavar="TEXT", help="Kept in the audit trail, and shown to whom it meets.")]
NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="May be left out where there is only one.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for scripts.")]


@app.command("force-release")
def force_release(
    export_id: Annotated[str, typer.Argument(metavar="EXPORT", help="Its id, as `cloudmanager exports` lists it.")],
    by: ByOption = "",
    reason: ReasonOption = "",
    json: JsonOption = False,
) -> None:
    """End an export at once, also one that is closing: its clients are cut off and get no time to finish."""
    with _service() as service:
        export = service.force_release(export_id, by=named(by), reason=reason)
    _tell(export, f"{export.id} of {export.disk} is {export.state}; its clients are cut off", as_json=json)


@app.command()
def pause(
    provider: Annotated[str, typer.Argument(metavar="PROVIDER", help="As `[providers.NAME]` calls it.")],
    by: ByOption = "",
    reason: ReasonOption = "",
    json: JsonOption = False,
) -> None:
    """Let a provider make no new exports, on every node of the store. Those that it has go on."""
    with _service() as service:
        paused = service.pause(provider, by=named(by), reason=reason)
    _tell(paused, _of_provider(paused), as_json=json)


@app.command()
def resume(
    provider: Annotated[str, typer.Argument(metavar="PROVIDER", help="As `[providers.NAME]` calls it.")],
    by: ByOption = "",
    reason: ReasonOption = "",
    json: JsonOption = False,
) -> None:
    """End a pause."""
    with _service() as service:
        resumed = service.resume(provider, by=named(by), reason=reason)
    _tell(resumed, _of_provider(resumed), as_json=json)


@app.command()
def drain(node: NodeArgument = "", by: ByOption = "", reason: ReasonOption = "", json: JsonOption = False) -> None:
    """Let a node take no new exports. Those that it has go on until they end; `admin status` says what is left."""
    with _service() as service:
        draining = service.drain(node or _only_node(service), by=named(by), reason=reason)
    _tell(draining, _of_node(draining), as_json=json)


@app.command()
def undrain(node: NodeArgument = "", by: ByOption = "", reason: ReasonOption = "", json: JsonOption = False) -> None:
    """End a drain."""
    with _service() as service:
        active = service.undrain(node or _only_node(service), by=named(by), reason=reason)
    _tell(active, _of_node(active), as_json=json)


@app.command()
def status(json: JsonOption = False) -> None:
    """Show the nodes and the providers, and which of them are paused or draining."""
    from cloudmanager.cli.client import output

    with _service() as service:
        nodes, providers = list(service.nodes()), list(service.providers())
    if json:
        output.print_json({"nodes": nodes, "providers": providers})
        return
    for line in (*map(_of_node, nodes), *map(_of_provider, providers)):
        print(line)


@contextmanager
def _service() -> "Iterator[CloudManager]":
    from cloudmanager.cli.client.service import service as asked

    with asked() as service:
        yield service


def _only_node(service: "CloudManager") -> str:
    names = [node.name for node in service.nodes()]
    if len(names) != 1:
        _refuse(f"there are {len(names)} nodes: name one of {', '.join(names)}")
    return names[0]


def _refuse(why: str) -> NoReturn:
    typer.echo(f"cloudmanager: {why}", err=True)
    raise typer.Exit(Exit.USAGE)


def _of_provider(provider: "Provider") -> str:
    said = [*_described("paused", provider.pause), *([provider.error.detail] if provider.error else [])]
    return f"provider {provider.name}: {'; '.join(said) or 'in use'}"


def _of_node(node: "Node") -> str:
    said = _described(node.state, node.drain) or [node.state]
    return f"node {node.name}: {'; '.join(said)}; {node.exports} exports, {node.attachments} disks attached"


def _described(what: str, action: "MaintenanceAction | None") -> list[str]:
    if action is None:
        return []
    by = f" by {action.by}" if action.by else ""
    return [f"{what}{by}", *([action.reason] if action.reason else [])]


def _tell(answer: object, sentence: str, *, as_json: bool) -> None:
    from cloudmanager.cli.client import output

    if as_json:
        output.print_json(answer)
    else:
        print(sentence)
