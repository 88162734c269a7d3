"""cloudmanager demo --cloud: the whole way through an emulated cloud, with the real SDK and a real block device."""

import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloudmanager.cli import demo
from cloudmanager.cli.block_devices import loop_devices, require_block_devices
from cloudmanager.cli.demo import check
from cloudmanager.cli.demo.disk import DemoDisk, sha256
from cloudmanager.cli.demo.leftovers import end_processes, processes
from cloudmanager.cli.demo.screen import Screen
from cloudmanager.cli.demo.service import CLOSE_SECONDS, PAUSE_SECONDS, Service
from cloudmanager.cli.example import toml
from cloudmanager.cli.exits import Exit
from cloudmanager.cli.extras import extra
from cloudmanager.core.errors import CloudManagerError

if TYPE_CHECKING:
    from cloudmanager.testing.cloud.emulator import Emulator

EMULATORS = {"gce": "gce", "aws": "ec2", "azure": "azure"}
NODE, NEIGHBOUR = "worker-1", "worker-2"
DISK = "evidence-7"
HOLDERS = ("anna", "ben", "clara")
PACE = 0.1
"""Of the real cloud's times: long enough to be seen."""
FOREIGN_VARIABLES = ("AWS_", "AZURE_", "CLOUDSDK_", "GCE_", "GOOGLE_", "IDENTITY_", "MSI_")
"""Where SDKs look for credentials: those of a real cloud have no business here."""
CONFIGURATION = """\
[server]
listen = "127.0.0.1:{{port}}"
state_dir = "{{directory}}/state"
[exports]
drain_seconds = 1
[providers.prod]
{provider}
"""


def run(cloud: str) -> Exit:
    """As `demo.run`. Raises SetupError where there are no loop devices for us, and MissingExtra without the SDK."""
    require_block_devices()
    with extra(cloud):
        from cloudmanager.testing.cloud import KINDS

        emulation = import_module(KINDS[EMULATORS[cloud]]).Emulation
    return demo.run(partial(_report, emulation))


def _report(emulation: "type[Emulator[Any]]", screen: Screen) -> None:
    with ExitStack() as cleanup:
        directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="cloudmanager-demo-")))
        image = demo.make_disk(screen, directory)
        cloud, disk_id = _start_cloud(screen, emulation, directory, image, cleanup)
        service = _start_service(screen, cloud, directory, cleanup)
        named = _find(screen, service)
        exports = [_export(screen, service, named, holder) for holder in HOLDERS]
        _check_attached_once(screen, cloud, disk_id)
        disk = DemoDisk(cloud.backing(disk_id), sha256(cloud.backing(disk_id)), image.files)
        copy = demo.read_back(screen, exports[0]["uri"], disk, directory)
        demo.look_inside(screen, copy, disk)
        _release_all_but_one(screen, service, cloud, disk_id, exports)
        _release_the_last(screen, service, cloud, disk_id, exports[-1])
        screen.step("Stop the service and the cloud")
        service.stop()
        cloud.stop()
        check(loop_devices(directory) == [], "A loop device is left.")
    check(not directory.exists(), f"{directory} is still there.")
    left = processes(str(directory))
    check(not left, f"Processes are left: {left}.")
    screen.good("nothing is left: no process, no loop device, no file")


def _start_cloud(
    screen: Screen, emulation: "type[Emulator[Any]]", directory: Path, image: DemoDisk, cleanup: ExitStack
) -> "tuple[Emulator[Any], str]":
    from cloudmanager.testing.cloud import backing
    from cloudmanager.testing.cloud.loop_device import detach_all
    from cloudmanager.testing.cloud.manual_actions import GIB

    screen.step(f"Start an emulated cloud with two machines and that disk, named {DISK}")
    cleanup.callback(detach_all, directory)  # when interrupted while a device was being made
    cloud = emulation(directory / "cloud", pace=PACE)  # type: ignore[call-arg] # each kind has its state built in
    cleanup.enter_context(cloud)
    for machine in (NODE, NEIGHBOUR):
        cloud.make_instance(machine)
    disk_id = cloud.make_disk(DISK)
    backing.copy(image.path, cloud.backing(disk_id), GIB)
    screen.fact(f"it speaks the API of {cloud.kind} at {cloud.url}; its disk is {disk_id}")
    return cloud, disk_id


def _start_service(screen: Screen, cloud: "Emulator[Any]", directory: Path, cleanup: ExitStack) -> Service:
    screen.step(f"Start the service, as if on {NODE}, with the cloud as its provider `prod`")
    _use_only(cloud.environment(NODE), directory)
    provider = "\n".join(f"{name} = {toml(value)}" for name, value in cloud.provider_settings(NODE).items())
    service = Service(directory, CONFIGURATION.format(provider=provider))
    screen.command(*service.command)
    cleanup.callback(end_processes, str(directory))
    cleanup.callback(service.stop)
    cleanup.callback(service.release_everything)
    seconds = service.start()
    screen.fact(f"it listens on {service.url} after {seconds:.1f} s")
    return service


def _use_only(variables: Mapping[str, str], directory: Path) -> None:
    """The emulated cloud's credentials, and no others that this machine may have."""
    for name in [name for name in os.environ if name.startswith(FOREIGN_VARIABLES)]:
        del os.environ[name]
    no_credentials = {"CLOUDSDK_CONFIG": str(directory / "no gcloud"), "NO_PROXY": "127.0.0.1"}
    os.environ.update({**no_credentials, **variables})


def _find(screen: Screen, service: Service) -> str:
    screen.step("Look for the disk by a part of its name")
    path = "/v1/disks?provider=prod&q=evidence"
    screen.request("GET", path)
    found = service.call("GET", path)["items"]
    check(len(found) == 1, f"{len(found)} disks were found.")
    screen.fact(f"{found[0]['id']}, {found[0]['size_bytes'] >> 20} MiB, in {found[0]['location']}")
    return str(found[0]["id"])


def _export(screen: Screen, service: Service, disk: str, holder: str) -> dict[str, Any]:
    screen.step(f"Ask for the disk, for {holder}")
    wanted = {"disk": disk, "access": "read-only", "holder": holder}
    screen.request("POST", "/v1/exports", wanted)
    began = time.monotonic()
    export = service.call("POST", "/v1/exports", wanted)
    problem = export["error"] or {}
    check(export["state"] == "ready", f"The export is {export['state']}: {problem.get('detail', 'no error is shown')}")
    screen.fact(f"{export['state']} after {(time.monotonic() - began) * 1000:.0f} ms: {export['uri']}")
    return export


def _check_attached_once(screen: Screen, cloud: "Emulator[Any]", disk_id: str) -> None:
    changes = [call.operation for call in cloud.calls.mutations()]
    check(cloud.holders(disk_id) == [NODE], f"The disk is attached to {cloud.holders(disk_id)}.")
    check(len(changes) == 1, f"The cloud was asked for {changes}.")
    screen.good(
        f"the cloud was asked once ({changes[0]}): {DISK} is attached to {NODE} as {_node(cloud, disk_id).name}"
    )


def _node(cloud: "Emulator[Any]", disk_id: str) -> Path:
    """The disk's device node on the machine, as the machine sees it."""
    plugged = cloud.guests[NODE].plugged.values()
    nodes = [each.node for each in plugged if each.backing == cloud.backing(disk_id)]
    check(len(nodes) == 1, f"The disk has {len(nodes)} devices on {NODE}.")
    return nodes[0]


def _release_all_but_one(
    screen: Screen, service: Service, cloud: "Emulator[Any]", disk_id: str, exports: list[dict[str, Any]]
) -> None:
    screen.step(f"{' and '.join(HOLDERS[:-1])} release it")
    for export in exports[:-1]:
        screen.request("DELETE", f"/v1/exports/{export['id']}")
        service.release(export["id"])
    (attachment,) = service.call("GET", "/v1/attachments")["items"]
    check(attachment["state"] == "attached", f"The attachment is {attachment['state']}.")
    check(cloud.holders(disk_id) == [NODE], "The disk was detached too early.")
    screen.good(f"{HOLDERS[-1]} still has it: it stays attached")


def _release_the_last(
    screen: Screen, service: Service, cloud: "Emulator[Any]", disk_id: str, export: dict[str, Any]
) -> None:
    screen.step(f"{HOLDERS[-1]} releases it")
    node = _node(cloud, disk_id)
    screen.request("DELETE", f"/v1/exports/{export['id']}")
    began = time.monotonic()
    service.release(export["id"])
    while service.call("GET", "/v1/attachments")["items"]:
        if time.monotonic() - began > CLOSE_SECONDS:
            raise CloudManagerError(f"The disk is still attached after {CLOSE_SECONDS} s.")
        time.sleep(PAUSE_SECONDS)
    check(not node.exists(), f"{node.name} is still there.")
    check(cloud.holders(disk_id) == [], f"The disk is attached to {cloud.holders(disk_id)}.")
    check(cloud.guests[NODE].surprises == [], "The disk was detached while its device was in use.")
    screen.good(
        f"detached after {time.monotonic() - began:.1f} s: {node.name} is gone, and the cloud says {DISK} is free"
    )
