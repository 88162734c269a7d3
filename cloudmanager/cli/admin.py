"""cloudmanager admin: maintenance actions on a running service."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from cloudmanager.cli.exits import Exit

if TYPE_CHECKING:
    from cloudmanager.client import CloudManager, Node, Provider
    from cloudmanager.client.model import MaintenanceAction

app = typer.Typer(help="Maintain a running service: end exports, pause providers, drain nodes.", no_args_is_help=True)

ByOption = Annotated[
    str, typer.Option(metavar="NAME", help="Who does it. Default: $CLOUDMANAGER_HOLDER, or user and host.")
]
ReasonOption = Annotated[str, typer.Option(metavar="TEXT", help="Kept in the audit trail, and shown to users.")]
NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="Optional if there is only one.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for scripts.")]


@app.command("force-release")
def force_release(
    export_id: Annotated[str, typer.Argument(metavar="EXPORT", help="Its id, as `cloudmanager exports` lists it.")],
    by: ByOption = "",
    reason: ReasonOption = "",
    json: JsonOption = False,
) -> None:
    """End an export immediately, even while it is closing. Its clients are disconnected without time to finish."""
    with _service() as service:
        export = service.force_release(export_id, by=_operator(by), reason=reason)
    _print(export, f"{export.id} of {export.disk} is {export.state}; its clients are disconnected", as_json=json)


@app.command()
def pause(
    provider: Annotated[str, typer.Argument(metavar="PROVIDER", help="As `[providers.NAME]` calls it.")],
    by: ByOption = "",
    reason: ReasonOption = "",
    json: JsonOption = False,
) -> None:
    """Stop a provider from making new exports, on every node of the store. Its existing exports continue."""
    with _service() as service:
        paused = service.pause(provider, by=_operator(by), reason=reason)
    _print(paused, _describe_provider(paused), as_json=json)


@app.command()
def resume(
    provider: Annotated[str, typer.Argument(metavar="PROVIDER", help="As `[providers.NAME]` calls it.")],
    by: ByOption = "",
    reason: ReasonOption = "",
    json: JsonOption = False,
) -> None:
    """End a pause."""
    with _service() as service:
        resumed = service.resume(provider, by=_operator(by), reason=reason)
    _print(resumed, _describe_provider(resumed), as_json=json)


@app.command()
def drain(node: NodeArgument = "", by: ByOption = "", reason: ReasonOption = "", json: JsonOption = False) -> None:
    """Stop a node from taking new exports. Its existing exports continue until they end; see `admin status`."""
    with _service() as service:
        draining = service.drain(node or _only_node(service), by=_operator(by), reason=reason)
    _print(draining, _describe_node(draining), as_json=json)


@app.command()
def undrain(node: NodeArgument = "", by: ByOption = "", reason: ReasonOption = "", json: JsonOption = False) -> None:
    """End a drain."""
    with _service() as service:
        active = service.undrain(node or _only_node(service), by=_operator(by), reason=reason)
    _print(active, _describe_node(active), as_json=json)


@app.command()
def status(json: JsonOption = False) -> None:
    """Show the nodes and providers, and which of them are drained or paused."""
    from cloudmanager.cli.client import output

    with _service() as service:
        nodes, providers = list(service.nodes()), list(service.providers())
    if json:
        output.print_json({"nodes": nodes, "providers": providers})
        return
    for line in (*map(_describe_node, nodes), *map(_describe_provider, providers)):
        print(line)


def _operator(given: str | None) -> str:
    from cloudmanager.cli.client.service import named  # brings the client, which --help does without

    return named(given)


@contextmanager
def _service() -> "Iterator[CloudManager]":
    from cloudmanager.cli.client.service import service as asked

    with asked() as service:
        yield service


def _only_node(service: "CloudManager") -> str:
    names = [node.name for node in service.nodes()]
    if len(names) != 1:
        _usage_error(f"there are {len(names)} nodes: name one of {', '.join(names)}")
    return names[0]


def _usage_error(why: str) -> NoReturn:
    typer.echo(f"cloudmanager: {why}", err=True)
    raise typer.Exit(Exit.USAGE)


def _describe_provider(provider: "Provider") -> str:
    facts = [*_facts("paused", provider.pause), *([provider.error.detail] if provider.error else [])]
    return f"provider {provider.name}: {'; '.join(facts) or 'in use'}"


def _describe_node(node: "Node") -> str:
    facts = _facts(node.state, node.drain) or [node.state]
    return f"node {node.name}: {'; '.join(facts)}; {node.exports} exports, {node.attachments} disks attached"


def _facts(what: str, action: "MaintenanceAction | None") -> list[str]:
    if action is None:
        return []
    by = f" by {action.by}" if action.by else ""
    return [f"{what}{by}", *([action.reason] if action.reason else [])]


def _print(answer: object, sentence: str, *, as_json: bool) -> None:
    from cloudmanager.cli.client import output

    if as_json:
        output.print_json(answer)
    else:
        print(sentence)
