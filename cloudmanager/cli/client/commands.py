"""The commands for people, as `cloudmanager --help` shows them."""

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloudmanager.cli.client import output
from cloudmanager.cli.exits import Exit
from cloudmanager.cli.light_command import LightCommand
from cloudmanager.client.model import Access

if TYPE_CHECKING:
    from cloudmanager.client.deploy import DeployOptions

app = typer.Typer()


class MountWay(StrEnum):
    """The access methods whose disk the kernel can mount."""

    DEVICE = "device"
    FILE = "file"


class ImageFormat(StrEnum):
    """What an image can be said to be."""

    RAW = "raw"


JsonOption = Annotated[bool, typer.Option("--json", help="JSON for scripts.")]
LimitOption = Annotated[int, typer.Option(min=0, metavar="N", help="At most so many; 0 is all of them.")]
DiskArgument = Annotated[str, typer.Argument(metavar="DISK", help="`provider:name`, as `cloudmanager disks` lists it.")]
ExportsArgument = Annotated[
    list[str], typer.Argument(metavar="EXPORT", help="Ids, as `cloudmanager exports` lists them.")
]
AccessOption = Annotated[
    Access, typer.Option(help="scratch: writes go to an overlay that is thrown away. read-write excludes all others.")
]
HolderOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Shown to others. Otherwise $CLOUDMANAGER_HOLDER, or user and host.")
]
TtlOption = Annotated[
    int | None,
    typer.Option(
        parser=output.seconds,
        metavar="DURATION",
        help="How long it lasts: 90s, 30m, 2h. By default the service says.",
    ),
]


@app.command()
def disks(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A part of the name.")] = "",
    provider: Annotated[str, typer.Option(metavar="NAME", help="Of this provider only.")] = "",
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="That have this label; repeatable.")
    ] = None,
    location: Annotated[str, typer.Option(metavar="PLACE", help="In this zone, region or directory.")] = "",
    limit: LimitOption = 0,
    json: JsonOption = False,
) -> None:
    """List the disks that the providers can see."""
    from cloudmanager.cli.client.disks import disks as list_disks

    list_disks(text, provider=provider, labels=label or [], location=location, limit=limit, as_json=json)


@app.command()
def export(
    disk: DiskArgument,
    access: AccessOption = Access.READ_ONLY,
    ttl: TtlOption = None,
    holder: HolderOption = None,
    note: Annotated[str, typer.Option(metavar="TEXT", help="Kept with the export.")] = "",
    json: JsonOption = False,
) -> None:
    """Export a disk and print its address. The export lasts until it is released or expires."""
    from cloudmanager.cli.client.exports import export as export_disk

    export_disk(disk, access, ttl=ttl, holder=holder, note=note, as_json=json)


@app.command()
def exports(
    disk: Annotated[str, typer.Option(metavar="DISK", help="Of this disk only.")] = "",
    holder: Annotated[str, typer.Option(metavar="NAME", help="Of this holder only.")] = "",
    over_too: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
    limit: LimitOption = 0,
    json: JsonOption = False,
) -> None:
    """List the exports."""
    from cloudmanager.cli.client.exports import exports as list_exports

    list_exports(disk=disk, holder=holder, over_too=over_too, limit=limit, as_json=json)


@app.command()
def renew(export_ids: ExportsArgument, ttl: TtlOption = None, json: JsonOption = False) -> None:
    """Renew exports: their lifetime starts again now."""
    from cloudmanager.cli.client.exports import renew as renew_exports

    _done(renew_exports(export_ids, ttl=ttl, as_json=json))


@app.command()
def release(export_ids: ExportsArgument, json: JsonOption = False) -> None:
    """Release exports. Connected clients get the grace period to finish."""
    from cloudmanager.cli.client.exports import release as release_exports

    _done(release_exports(export_ids, as_json=json))


@app.command()
def attach(
    disk: DiskArgument,
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIRECTORY", help="Where to mount it. Otherwise a new place.")
    ] = None,
    part: Annotated[
        str | None, typer.Option(metavar="NAME", help="The partition, when there are several: 1, 2…")
    ] = None,
    method: Annotated[MountWay | None, typer.Option(help="How. Otherwise the best that this machine allows.")] = None,
    json: JsonOption = False,
) -> None:
    """Mount a disk read-only until Ctrl-C. Nothing on it is changed: no journal is replayed. Needs root."""
    from cloudmanager.cli.client.attach import attach as attach_disk

    attach_disk(disk, directory, part=part, method=method, as_json=json)


@app.command()
def run(
    disk: DiskArgument,
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND", help="After --, with {file}, {device}, {stub}, {uri} or {disk}.")
    ],
    access: AccessOption = Access.READ_ONLY,
    holder: HolderOption = None,
    json: Annotated[bool, typer.Option("--json", help="A line of JSON on standard error at the end.")] = False,
) -> None:
    """Run a command on a disk: cloudmanager run prod:evidence-7 -- fls -r {file}

    The exit code is the command's.
    """
    from cloudmanager.cli.client.running import run as run_command

    raise typer.Exit(run_command(disk, command, access, holder, as_json=json))


@app.command(cls=LightCommand)
def deploy(
    image: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE", help="A file, block device, http(s) or NBD URL, `provider:name`, or - for standard input."
        ),
    ],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="`provider:name`, an NBD URL, a block device, or a file.")
    ],
    format: Annotated[
        ImageFormat | None, typer.Option(help="raw: the image's bytes are the disk, whatever they look like.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Also if the target is not empty.")] = False,
    any_sector_size: Annotated[
        bool, typer.Option("--any-sector-size", help="Also if it is laid out for other sectors than the target's.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read the target back: it must hold what was read of the image.")
    ] = False,
    grow: Annotated[
        bool,
        typer.Option("--grow", help="Let the last partition and its file system fill the target. Needs root."),
    ] = False,
    resume: Annotated[bool, typer.Option(help="Go on where a run that was cut off has ended.")] = True,
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Go on around what cannot be read of the image: zeros, listed at the end."),
    ] = False,
    connections: Annotated[int, typer.Option(min=1, max=32, help="To the image and the target each, at most.")] = 4,
    holder: HolderOption = None,
    json: Annotated[bool, typer.Option("--json", help="A line of JSON for each event.")] = False,
) -> None:
    """Write an image onto a disk: cloudmanager deploy debian.qcow2 local:/dev/sdb --verify

    Only content is sent. Cut off, the same command goes on where it ended.
    """
    from cloudmanager.cli.client.deploy import deploy as deploy_image

    options: DeployOptions = {
        "overwrite": overwrite,
        "any_sector_size": any_sector_size,
        "verify": verify,
        "grow": grow,
        "resume": resume,
        "connections": connections,
        "skip_bad": skip_bad,
    }
    if format is ImageFormat.RAW:
        from cloudmanager.client.deploy.options import Format

        options["image_format"] = Format.RAW
    if deploy_image(image, target, options, holder=holder, as_json=json).bad_ranges:
        raise typer.Exit(Exit.BAD_RANGES)


@app.command()
def cleanup(json: JsonOption = False) -> None:
    """Remove what crashed workers left on this machine: mounts, devices, files."""
    from cloudmanager.cli.client.attach import cleanup as clean_up

    _done(clean_up(as_json=json))


def _done(failures: int) -> None:
    if failures:
        raise typer.Exit(Exit.ERROR)


def choose_service(url: str | None) -> None:
    """For this process and what it starts."""
    if url is not None:
        os.environ["CLOUDMANAGER_URL"] = url
