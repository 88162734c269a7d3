"""cloudmanager demo: the main job from end to end, on this machine, on embedded defaults."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from cloudmanager.cli.demo.disk import DemoDisk, sha256
from cloudmanager.cli.demo.leftovers import end_processes, processes
from cloudmanager.cli.demo.programs import run_program
from cloudmanager.cli.demo.screen import Screen
from cloudmanager.cli.demo.service import Service
from cloudmanager.cli.exits import Exit
from cloudmanager.cli.extras import extra
from cloudmanager.core.errors import CloudManagerError, SetupError

PROGRAMS = {
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "nbdcopy": "libnbd-bin",
    "qemu-nbd": "qemu-utils",
    "bwrap": "bubblewrap",
}
SYSTEM_DIRECTORIES = "/usr/sbin:/sbin"
"""Where Debian keeps mke2fs, off the PATH of a user who is not root."""


def run(tell: Callable[[Screen], None] | None = None) -> Exit:
    """Runs the demo and checks each step. Leaves nothing behind, also when interrupted. ERROR if a check fails.

    `tell` is another story than that of a local disk; it cleans up after itself.
    """
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_DIRECTORIES}"
    _require_everything()
    screen, began = Screen(), time.monotonic()
    try:
        with _terminated_as_interrupted():
            (tell or _report)(screen)
    except CloudManagerError as error:
        screen.failed(error.detail)
        return Exit.ERROR
    except KeyboardInterrupt:
        screen.failed("Interrupted. Everything was cleaned up.")
        return Exit.INTERRUPTED
    screen.done(time.monotonic() - began)
    return Exit.OK


def _require_everything() -> None:
    with extra("server"):
        import cloudmanager.api.app  # noqa: F401 - it is used by the process that the demo starts
    if missing := sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)}):
        raise SetupError(f"The demo needs programs that are not here: apt-get install {' '.join(missing)}")


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM and the loss of the terminal unwind as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    ends = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]
    earlier = {number: signal.signal(number, interrupt) for number in ends}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _report(screen: Screen) -> None:
    with ExitStack() as cleanup:
        directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="cloudmanager-demo-")))
        cleanup.callback(end_processes, str(directory))
        disk = make_disk(screen, directory)
        service = _start_service(screen, directory, cleanup)
        export = _ask(screen, service, disk)
        copy = read_back(screen, export["uri"], disk, directory)
        look_inside(screen, copy, disk)
        _release(screen, service, export)
        screen.step("Stop the service")
        service.stop()
    check(not directory.exists(), f"{directory} is still there.")
    left = processes(str(directory))
    check(not left, f"Processes are left: {left}.")
    screen.good("nothing is left: no process, no file")


def check(is_good: bool, otherwise: str) -> None:
    if not is_good:
        raise CloudManagerError(otherwise)


def make_disk(screen: Screen, directory: Path) -> DemoDisk:
    screen.step("Make a disk with a file system and files in it")
    disk = DemoDisk.make(directory / "images", on_command=screen.command)
    screen.fact(f"{disk.path.stat().st_size >> 20} MiB, {len(disk.files)} files, SHA-256 {disk.sha256[:16]}…")
    return disk


def _start_service(screen: Screen, directory: Path, cleanup: ExitStack) -> Service:
    screen.step("Start the service, with the directory of that disk as its provider `local`")
    service = Service(directory)
    screen.command(*service.command)
    cleanup.callback(service.stop)
    cleanup.callback(service.release_everything)
    seconds = service.start()
    screen.fact(f"it listens on {service.url} after {seconds:.1f} s")
    return service


def _ask(screen: Screen, service: Service, disk: DemoDisk) -> dict[str, str]:
    screen.step("Ask for the disk by its name, over HTTP")
    wanted = {"disk": f"local:{disk.path.name}", "access": "read-only", "holder": "demo"}
    screen.request("POST", "/v1/exports", wanted)
    began = time.monotonic()
    export = service.call("POST", "/v1/exports", wanted)
    problem = export["error"] or {}
    check(export["state"] == "ready", f"The export is {export['state']}: {problem.get('detail', 'no error is shown')}")
    screen.fact(f"{export['state']} after {(time.monotonic() - began) * 1000:.0f} ms: {export['uri']}")
    return export


def read_back(screen: Screen, uri: str, disk: DemoDisk, directory: Path) -> Path:
    screen.step("Read it back with a client that knows nothing but NBD")
    copy = directory / "copy.img"
    began = time.monotonic()
    screen.command("nbdcopy", uri, copy.name)
    run_program("nbdcopy", uri, str(copy))
    read = sha256(copy)
    screen.fact(f"{copy.stat().st_size >> 20} MiB in {(time.monotonic() - began) * 1000:.0f} ms")
    check(read == disk.sha256, f"SHA-256 {read} was read, {disk.sha256} was expected.")
    screen.good(f"SHA-256 is the same: {read[:16]}…")
    return copy


def look_inside(screen: Screen, copy: Path, disk: DemoDisk) -> None:
    screen.step("Look inside, at the bytes that came over NBD")
    image = DemoDisk(copy, disk.sha256, disk.files)
    screen.command("debugfs", "-R", "ls -p /", copy.name)
    listed = image.list_files()
    for name, size in listed.items():
        screen.fact(f"{size:>10}  {name}")
    check(listed == {name: len(content) for name, content in disk.files.items()}, "The files are not the same.")
    name, content = next(iter(disk.files.items()))
    screen.command("debugfs", "-R", f"cat {name}", copy.name)
    check(image.read_file(name) == content, f"{name} has another content.")
    screen.good(content.decode().strip())


def _release(screen: Screen, service: Service, export: dict[str, str]) -> None:
    screen.step("Release it")
    screen.request("DELETE", f"/v1/exports/{export['id']}")
    name = export["uri"].rpartition("/")[2]
    check(bool(processes(name)), "No qemu-nbd was found while the disk was exported.")
    began = time.monotonic()
    service.release(export["id"])
    screen.fact(f"closed after {(time.monotonic() - began) * 1000:.0f} ms")
    left = processes(name)
    check(not left, f"qemu-nbd is still there: {left}.")
    check(service.call("GET", "/v1/attachments")["items"] == [], "The disk is still attached.")
    screen.good("qemu-nbd is gone, and the disk is attached no more")
