"""Which files a reader opens who follows one operation, found by running it.

A file carries the operation on when one of its functions calls, by name, a function in another file of the package. A
reader opens these. The others are leaves: each answers a question that its functions' names ask, such as whether bytes
are zero. What runs only because a module is imported does not count.

    python -m tests.docs.reading_path deploy|export|post     prints the files in the order in which they are entered
"""

from __future__ import annotations

import dis
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tokenize
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from http.client import HTTPConnection
from inspect import CO_GENERATOR, CO_NEWLOCALS
from pathlib import Path
from types import CodeType, FrameType

import cloudmanager

PACKAGE = f"{Path(cloudmanager.__file__).parent}/"
_RESUME = dis.opmap["RESUME"]
_SOCKET, _PORTS = "http.sock", "20900-20940"
_SERVERS_ARGUMENTS = "QemuNbd.arguments|Nbdkit.arguments"
"""The functions that build the command line of an export's NBD server."""
_SECONDS = 60.0


@dataclass(frozen=True)
class Step:
    """A file whose functions ran."""

    file: str
    functions: list[str]
    calls: list[str]
    """Other files that its functions call."""

    @property
    def carries_on(self) -> bool:
        return bool(self.calls)


class Recorder:
    """Notes calls between files of the package, in all threads."""

    def __init__(self, until: str) -> None:
        self._until = frozenset(filter(None, until.split("|")))
        self._functions: dict[str, dict[str, None]] = {}
        self._calls: dict[str, dict[str, None]] = {}

    def start(self) -> None:
        self._functions.clear()
        self._calls.clear()
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)

    def write(self, path: Path) -> None:
        steps = [
            {"file": file, "functions": list(functions), "calls": list(self._calls.get(file, {}))}
            for file, functions in list(self._functions.items())
        ]
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(steps))
        partial.rename(path)

    def _profile(self, frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event != "call" or not _is_ours(code) or _is_resumed(frame) or self._is_done():
            return
        if sys.exc_info()[0] is not None:  # what handles an error is not the way of an operation that succeeds
            return
        caller = frame.f_back
        while caller is not None and not _is_ours(caller.f_code):
            caller = caller.f_back
        if _is_import(frame):
            return
        file = code.co_filename.removeprefix(PACKAGE)
        self._functions.setdefault(file, {})[code.co_qualname] = None
        if caller is not None and caller.f_code.co_filename != code.co_filename and _names(caller.f_code, code):
            self._calls.setdefault(caller.f_code.co_filename.removeprefix(PACKAGE), {})[file] = None

    def _is_done(self) -> bool:
        return any(self._until & functions.keys() for functions in list(self._functions.values()))


def _is_ours(code: CodeType) -> bool:
    is_function = bool(code.co_flags & CO_NEWLOCALS) and not code.co_qualname.startswith("<")
    return is_function and code.co_filename.startswith(PACKAGE)


def _names(caller: CodeType, called: CodeType) -> bool:
    """Whether the caller's file has the name of what it calls. It has none for a function that it was given.

    A generator begins when somebody asks it for something: that one has named it only if the function itself did.
    """
    scope, _, name = called.co_qualname.rpartition(".")
    if name in ("__init__", "__call__"):
        return scope.rpartition(".")[2] in _names_in(caller.co_filename)
    if name.startswith("__"):
        return True
    if called.co_flags & CO_GENERATOR:
        return name in caller.co_names
    return name in _names_in(caller.co_filename)


@cache
def _names_in(file: str) -> frozenset[str]:
    with Path(file).open("rb") as text:
        return frozenset(token.string for token in tokenize.tokenize(text.readline) if token.type == tokenize.NAME)


def _is_import(frame: FrameType | None) -> bool:
    """Whether it runs because a module of the package is being imported."""
    while frame is not None:
        code = frame.f_code
        if code.co_name == "<module>" and code.co_filename.startswith(PACKAGE) and not _is_program(code):
            return True
        frame = frame.f_back
    return False


def _is_program(code: CodeType) -> bool:
    return code.co_filename.endswith("/__main__.py")


def _is_resumed(frame: FrameType) -> bool:
    """A generator or coroutine that goes on: that is no call."""
    code, at = frame.f_code.co_code, frame.f_lasti
    return at >= 0 and code[at] == _RESUME and code[at + 1] & 3 != 0


def record(path: Path, until: str, arguments: list[str]) -> None:
    """Runs a module (`-m NAME ...`) or a script. SIGUSR1 forgets what was noted, SIGUSR2 writes it out."""
    recorder = Recorder(until)

    def forget(*_: object) -> None:
        recorder.start()
        path.with_suffix(".armed").touch()

    signal.signal(signal.SIGUSR1, forget)
    signal.signal(signal.SIGUSR2, lambda *_: recorder.write(path))
    recorder.start()
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            runpy.run_path(arguments[0], run_name="__main__")
    finally:
        sys.setprofile(None)
        if not path.exists():
            recorder.write(path)


def deploy(directory: Path) -> list[Step]:
    """`cloudmanager deploy IMAGE TARGET`, a raw image onto an NBD server."""
    image, target, server_socket = directory / "image.raw", directory / "target.raw", directory / "nbd.sock"
    image.write_bytes(os.urandom(4 << 20) + bytes(4 << 20))
    target.write_bytes(b"")
    os.truncate(target, 8 << 20)
    server = subprocess.Popen(["qemu-nbd", "-f", "raw", "-x", "disk", "-e", "8", "-t", "-k", server_socket, target])
    try:
        _eventually(server_socket.exists)
        return _recorded(
            directory, "", "-m", "cloudmanager", "deploy", str(image), f"nbd+unix:///disk?socket={server_socket}"
        )
    finally:
        server.terminate()
        server.wait()


def export(directory: Path) -> list[Step]:
    """A worker's `with CloudManager(url).export(disk)`."""
    with_service = f"""
from cloudmanager.client import CloudManager
with CloudManager("unix:{directory / _SOCKET}").export("local:{directory / "images" / "disk.raw"}") as disk:
    disk.uri
"""
    (directory / "worker.py").write_text(with_service)
    service = _serve(directory)
    try:
        return _recorded(directory, "", str(directory / "worker.py"))
    finally:
        _end(service)


def post(directory: Path) -> list[Step]:
    """POST /v1/exports, as far as the command line of the NBD server."""
    service = _serve(directory)
    try:
        _eventually(lambda: _request(directory, "GET", "/readyz") == HTTPStatus.OK)
        service.send_signal(signal.SIGUSR1)
        _eventually((directory / "service.armed").exists)
        disk = f"local:{directory / 'images' / 'disk.raw'}"
        made = _request(directory, "POST", "/v1/exports", {"disk": disk, "access": "read-only", "holder": "a reader"})
        assert made == HTTPStatus.CREATED
        service.send_signal(signal.SIGUSR2)
        _eventually((directory / "service.json").exists)
        return _read(directory / "service.json")
    finally:
        _end(service)


def _request(directory: Path, method: str, path: str, body: object = None) -> int:
    """The status of the answer."""
    with closing(HTTPConnection("localhost")) as connection:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(directory / _SOCKET))
        headers = {"Content-Type": "application/json", "Prefer": f"wait={_SECONDS:.0f}"}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status


def _serve(directory: Path) -> subprocess.Popen[bytes]:
    images = directory / "images"
    images.mkdir()
    (images / "disk.raw").write_bytes(bytes(1 << 20))
    configuration = directory / "cloudmanager.toml"
    configuration.write_text(f"""
[server]
listen = "unix:{directory / _SOCKET}"
state_dir = "{directory / "state"}"
lock_dir = "{directory / "locks"}"
[nbd]
ports = "{_PORTS}"
[exports]
drain_seconds = 0
on_shutdown = "close"
reconcile_seconds = 600
[providers.local]
type = "local"
images = ["{images}"]
""")
    command = ["-m", "cloudmanager", "serve", "--config", str(configuration)]
    service = subprocess.Popen(_recording(directory / "service.json", _SERVERS_ARGUMENTS, command))
    _eventually((directory / _SOCKET).exists)
    return service


def _end(service: subprocess.Popen[bytes]) -> None:
    service.terminate()
    service.wait(_SECONDS)


def _recorded(directory: Path, until: str, *arguments: str) -> list[Step]:
    path = directory / "steps.json"
    subprocess.run(_recording(path, until, list(arguments)), check=True)
    return _read(path)


def _recording(path: Path, until: str, arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "tests.docs.reading_path", "record", str(path), until, *arguments]


def _read(path: Path) -> list[Step]:
    return [Step(**step) for step in json.loads(path.read_text())]


def _eventually(happened: object) -> None:
    assert callable(happened)
    deadline = time.monotonic() + _SECONDS
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


OPERATIONS = {"deploy": deploy, "export": export, "post": post}


def main() -> None:
    if sys.argv[1] == "record":
        record(Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
        return
    with tempfile.TemporaryDirectory() as directory:
        steps = OPERATIONS[sys.argv[1]](Path(directory))
    lines = [f"{'' if step.carries_on else 'leaf '}{step.file}: {', '.join(step.functions)[:100]}" for step in steps]
    carrying = sum(step.carries_on for step in steps)
    sys.stdout.write("\n".join([*lines, f"{carrying} files carry it on, {len(steps)} are entered", ""]))


if __name__ == "__main__":
    main()
