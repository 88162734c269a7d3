"""cloudmanager export, exports, renew, release"""

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress

from rich.text import Text

from cloudmanager.cli.client import output, waiting
from cloudmanager.cli.client.output import format_bytes, print_message
from cloudmanager.cli.client.service import named, service
from cloudmanager.cli.streams import OutputFailed, flush
from cloudmanager.client import address
from cloudmanager.client.errors import ClientError
from cloudmanager.client.model import Access, Export, ExportState, Tls
from cloudmanager.client.signals import unwinding_on_sigterm

_COLUMNS = ("id", "disk", "access", "state", "left", "holder", "address")


def export(disk: str, access: Access, *, ttl: int | None, holder: str | None, note: str, as_json: bool) -> None:
    """Prints only the address on standard output, for scripts; what people want to know goes to standard error."""
    with unwinding_on_sigterm(), service() as manager:
        made = manager.claim(disk, access, ttl_seconds=ttl, holder=named(holder), note=note)
        try:
            with waiting.export_status(disk) as show:
                ready = manager.wait(made.id, on_progress=show)
            _tell(ready, as_json=as_json)
            flush()
        except (KeyboardInterrupt, SystemExit, OutputFailed):  # nobody has its address
            with suppress(ClientError):
                manager.release(made.id)
            raise


def _tell(ready: Export, *, as_json: bool) -> None:
    if as_json:
        output.print_json(ready)
        return
    print(ready.uri)
    sectors = f" in sectors of {ready.logical_sector_bytes}" if ready.logical_sector_bytes not in (None, 512) else ""
    print_message(f"{ready.disk}, {ready.access}, {format_bytes(ready.size_bytes)}{sectors}; export {ready.id}")
    print_message(f"It expires in {output.time_left(ready)} (cloudmanager renew {ready.id}).")
    match ready.tls:
        case Tls.PSK:
            print_message("Its server requires a key: --json shows it. `cloudmanager run` and `attach` use it.")
        case Tls.X509:
            print_message(
                "Its server wants a certificate: `cloudmanager run` and `attach` find yours by "
                f"${address.VARIABLE}; for other programs append ?tls-certificates=DIRECTORY."
            )
    print_message(f"When you are done: cloudmanager release {ready.id}")


def exports(*, disk: str, holder: str, over_too: bool, limit: int, as_json: bool) -> None:
    states = () if over_too else [state for state in ExportState if state.is_live or state is ExportState.CLOSING]
    with service() as manager:
        found = output.at_most(limit, manager.exports(disk=disk, holder=holder, states=states))
        if as_json:
            output.print_items(found)
        else:
            output.print_table(_COLUMNS, map(_row, found), "There is no export.")


def _row(export: Export) -> Iterable[str | Text]:
    address = export.uri or "-"
    return (
        *(export.id, export.disk, export.access, output.state_of(export)),
        *(output.time_left(export), export.holder, address),
    )


def renew(ids: list[str], *, ttl: int | None, as_json: bool) -> int:
    def describe(export: Export) -> str:
        return f"{export.id} lasts for another {output.time_left(export)}"

    with service() as manager:
        return _each(ids, lambda export_id: manager.renew(export_id, ttl), describe, as_json=as_json)


def release(ids: list[str], *, as_json: bool) -> int:
    def describe(export: Export) -> str:
        draining = export.state is ExportState.CLOSING
        return f"{export.id} is released" + (": its clients may still finish" if draining else "")

    with service() as manager:
        return _each(ids, manager.release, describe, as_json=as_json)


def _each(ids: list[str], work: Callable[[str], Export], describe: Callable[[Export], str], *, as_json: bool) -> int:
    """One that fails does not keep the others. Returns how many failed."""
    done: list[Export] = []
    failures = 0
    for export_id in ids:
        try:
            done.append(work(export_id))
        except ClientError as error:
            failures += 1
            print(f"cloudmanager: {error.detail}", file=sys.stderr)
        else:
            if not as_json:
                print(describe(done[-1]))
    if as_json:
        output.print_items(done)
    return failures
