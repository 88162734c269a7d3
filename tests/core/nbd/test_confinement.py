"""A server sees its own disk and nothing else of this machine."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudmanager.core.errors import ServerFailed, UnsafeImage
from cloudmanager.core.model import Access
from cloudmanager.core.nbd import process
from tests.checkout import ROOT
from tests.core.nbd.exporter import Exporter, MiB, Served, children, device, status

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NAMESPACES = ("ipc", "mnt", "net", "pid", "uts")
CAP_DAC_OVERRIDE = 1 << 1
REFUSED = "nothing would keep a server that may write the one from writing the other"


def capabilities(served: Served) -> int:
    return int(status(served.pid, "CapEff"), 16)


def mount_options(served: Served, name: str) -> set[str]:
    lines = (line.split() for line in Path(f"/proc/{served.pid}/mountinfo").read_text().splitlines())
    return next(set(fields[5].split(",")) for fields in lines if fields[4].startswith(name))


def test_a_server_has_namespaces_of_its_own(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    for name in NAMESPACES:
        assert Path(f"/proc/{served.pid}/ns/{name}").readlink() != Path(f"/proc/self/ns/{name}").readlink()


def test_a_servers_network_is_empty(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    interfaces = Path(f"/proc/{served.pid}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]


def test_a_server_has_no_capability(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    assert capabilities(served) == 0
    assert status(served.pid, "NoNewPrivs") == "1"


@as_root
@pytest.mark.parametrize(("mode", "expected"), [(0o600, CAP_DAC_OVERRIDE), (0o644, 0)])
def test_a_server_may_override_permissions_only_where_its_image_needs_it(
    exporter: Exporter, raw: Path, mode: int, expected: int
) -> None:
    raw.chmod(mode)
    os.chown(raw, 12345, 12345)
    assert capabilities(exporter.export(device(raw))) == expected


def test_a_server_sees_only_its_own_disk(exporter: Exporter, raw: Path) -> None:
    exporter.export(device(raw))
    served = exporter.export(device(raw))
    root = {path.name for path in Path(f"/proc/{served.pid}/root").iterdir()}
    assert root <= {"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "dev", "etc", "image-0"}
    assert [path.name for path in Path(f"/proc/{served.pid}/root/dev").iterdir()] == ["null"]


def test_a_read_only_disk_is_mounted_read_only(exporter: Exporter, raw: Path) -> None:
    assert "ro" in mount_options(exporter.export(device(raw)), "/image-0")
    assert "ro" in mount_options(exporter.export(device(raw), Access.SCRATCH), "/image-0")
    assert "rw" in mount_options(exporter.export(device(raw), Access.READ_WRITE), "/image-0")


def test_a_server_inherits_no_descriptor_of_the_daemon(exporter: Exporter, raw: Path, tmp_path: Path) -> None:
    secret = os.open(tmp_path / "secret", os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(secret, True)
    try:
        served = exporter.export(device(raw))
        held = process.descriptors(served.pid).values()
    finally:
        os.close(secret)
    assert not any("secret" in target for target in held)


@as_root
@pytest.mark.parametrize(("access", "mode"), [(Access.READ_ONLY, 0o040), (Access.READ_WRITE, 0o060)])
def test_a_device_node_gives_the_server_no_more_than_its_access(
    exporter: Exporter, loop: Path, access: Access, mode: int
) -> None:
    served = exporter.export(device(loop), access)
    node = Path(f"/proc/{served.pid}/root/image-0").stat()
    assert (stat.S_IMODE(node.st_mode), node.st_rdev) == (mode, loop.stat().st_rdev)
    assert node.st_uid != os.geteuid()
    assert capabilities(served) == 0


@as_root
def test_a_server_without_write_access_cannot_open_its_device_for_writing(exporter: Exporter, loop: Path) -> None:
    """As seen from inside: the shell runs where the server does, with what it may."""
    served = exporter.export(device(loop))
    enter = ["nsenter", f"--target={served.pid}", "--mount", "--root", "setpriv", "--bounding-set=-all"]
    command = [*enter, "--inh-caps=-all", "--no-new-privs", "/bin/sh", "-c"]
    assert subprocess.run([*command, ": < /image-0"], check=False).returncode == 0
    for attempt in (": >> /image-0", "chmod 666 /image-0"):
        assert subprocess.run([*command, attempt], check=False, capture_output=True).returncode != 0


@pytest.fixture
def nodev(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system on which no device can be opened."""
    place = tmp_path / "nodev"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nodev", "none", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@as_root
@pytest.mark.parametrize("access", [Access.READ_ONLY, Access.SCRATCH])
def test_a_device_is_guarded_wherever_the_state_directory_is(nodev: Path, loop: Path, access: Access) -> None:
    before = loop.stat()
    exporter = Exporter(nodev / "exports")
    try:
        served = exporter.export(device(loop), access)
        node = Path(f"/proc/{served.pid}/root/image-0").stat()
        assert (stat.S_IMODE(node.st_mode), node.st_ino) != (stat.S_IMODE(before.st_mode), before.st_ino)
        assert (stat.S_IMODE(node.st_mode), node.st_uid != os.geteuid()) == (0o040, True)
    finally:
        exporter.stop_all()
    assert (loop.stat().st_mode, loop.stat().st_uid) == (before.st_mode, before.st_uid)


@as_root
def test_a_server_that_may_override_permissions_is_kept_from_writing_a_device_all_the_same(
    exporter: Exporter, loop: Path, tmp_path: Path
) -> None:
    """The mode of the device's node would not keep it from that. A filter does, or the export is refused."""
    top = tmp_path / "top"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", loop, "-F", "raw", top], check=True)
    os.chown(top, 12345, 12345)
    top.chmod(0o600)
    disk = device(top, "qcow2", size_bytes=4 * MiB, backing=device(loop))
    served = exporter.export(disk)
    assert capabilities(served) == CAP_DAC_OVERRIDE
    with served.connect() as client:
        assert len(client.read(0, 512)) == 512
    with pytest.raises(ServerFailed, match=REFUSED):
        exporter.export(disk, Access.SCRATCH)


BY_ACCESS = """
import encodings.idna, os, sys  # what is imported late may be out of reach for that user
from pathlib import Path
from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.model import Access
from cloudmanager.core.nbd import process
from tests.core.nbd.exporter import Exporter, device
directory, disk, user = Path(sys.argv[1]), device(Path(sys.argv[2])), int(sys.argv[3])
if user:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
exporter = Exporter(directory / "exports")
for access in Access:
    try:
        served = exporter.export(disk, access)
    except CloudManagerError as error:
        print(f"{access.value}: {error.detail}")
        continue
    root = Path(f"/proc/{served.pid}/root/image-0")
    with served.connect() as client:
        print(f"{access.value}: served, {'link' if root.is_symlink() else 'node'}, {client.read(0, 4).decode()}")
    exporter.servers.stop(served.id)
exporter.stop_all()
"""


def exported_by_access(device_node: Path, *, user: int = 0, without: str | None = None) -> dict[str, str]:
    """What comes of each access to a device, for a user, or for root without a capability."""
    limited = ["setpriv", f"--bounding-set=-{without}", f"--inh-caps=-{without}"] if without else []
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are closed to other users
        os.chown(directory, user, user)
        command = [*limited, sys.executable, "-c", BY_ACCESS, directory, str(device_node), str(user)]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100)
    return dict(line.split(": ", 1) for line in ran.stdout.splitlines())


@pytest.fixture
def lettered(raw: Path, loop: Path) -> Path:
    """A block device that begins with AAAA."""
    with loop.open("r+b") as file:
        file.write(b"A" * 4096)
    return loop


@as_root
def test_where_no_node_can_be_made_a_filter_guards_the_device_or_the_export_is_refused(lettered: Path) -> None:
    found = exported_by_access(lettered, without="mknod")
    assert found["read-only"] == "served, link, AAAA"
    assert found["read-write"] == "served, link, AAAA"
    assert f"{lettered} is read-only here" in found["scratch"]
    assert REFUSED in found["scratch"]


@as_root
@pytest.mark.parametrize(
    ("mode", "scratch", "writing"),
    [(0o640, "served, link, AAAA", "cannot be opened by user 65534"), (0o660, REFUSED, "served, link, AAAA")],
)
def test_an_ordinary_user_exports_a_device_with_no_more_than_its_access(
    lettered: Path, mode: int, scratch: str, writing: str
) -> None:
    """What the user itself may not write, its servers may not either; what it may, only the filter is in the way of."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        node = Path(directory) / "node"
        os.mknod(node, stat.S_IFBLK, lettered.stat().st_rdev)
        os.chown(node, 0, 65534)
        node.chmod(mode)
        found = exported_by_access(node, user=65534)
    assert found["read-only"] == "served, link, AAAA"
    assert scratch in found["scratch"]
    assert writing in found["read-write"]


STAND_IN = """#!/usr/bin/python3
import ctypes, os, socket, sys
listener = socket.socket(fileno=3)
for name, attempt in {
    "socket": socket.socket,
    "disconnect": lambda: ctypes.CDLL(None, use_errno=True).connect(3, bytes(16), 16) and 1 / 0,
    "connect": lambda: listener.connect(("127.0.0.1", PORT)),
    "chmod": lambda: os.chmod("/image-0", 0o666),
    "write": lambda: os.open("/image-0", os.O_RDWR),
    "node": lambda: os.mknod("/dev/node", 0o60600, os.stat("/image-0").st_rdev),
}.items():
    try:
        attempt()
        print("succeeded:", name, file=sys.stderr, flush=True)
    except (OSError, ZeroDivisionError):
        print("refused:", name, file=sys.stderr, flush=True)
listener.detach()
os.execv("/usr/bin/qemu-nbd", ["qemu-nbd", *sys.argv[1:]])
"""


@as_root
@pytest.mark.parametrize("kind", ["file", "device"])
def test_what_stands_in_for_qemu_nbd_gets_nowhere(
    make_exporter: Callable[..., Exporter],
    raw: Path,
    loop: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """As an image that has taken it over would, in the very place where servers run."""
    with socket.create_server(("127.0.0.1", 0)) as service:
        stand_in = tmp_path / "bin" / "qemu-nbd"
        stand_in.parent.mkdir()
        stand_in.write_text(STAND_IN.replace("PORT", str(service.getsockname()[1])))
        stand_in.chmod(0o755)
        monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")
        exporter = make_exporter(engine="qemu-nbd")
        served = exporter.export(device(raw if kind == "file" else loop))
        with served.connect() as client:
            assert client.read(0, 512) == raw.read_bytes()[:512]
        output = os.pread(exporter.servers._entries[served.id].running._stderr.fd, 4096, 0).rstrip(b"\0").decode()
        service.settimeout(0)
        with pytest.raises(BlockingIOError):
            service.accept()
    assert output.splitlines() == [
        f"refused: {name}" for name in ("socket", "disconnect", "connect", "chmod", "write", "node")
    ]


def test_without_the_sandbox_there_is_none(make_exporter: Callable[..., Exporter], raw: Path) -> None:
    served = make_exporter(sandbox="none").export(device(raw))
    assert Path(f"/proc/{served.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink()


@pytest.mark.parametrize(
    ("tool", "package"), [("qemu-nbd", "qemu-utils"), ("bwrap", "bubblewrap")], ids=["qemu-nbd", "bwrap"]
)
def test_a_missing_tool_is_named_with_its_package(
    exporter: Exporter, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str, package: str
) -> None:
    for name in ("qemu-nbd", "bwrap", "sh"):
        if name != tool:
            (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerFailed, match=f"{tool} is not installed: install the package {package}"):
        exporter.export(device(raw))


def test_a_sandbox_that_cannot_run_says_what_to_do(
    exporter: Exporter, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bubblewrap that may not make namespaces is had by taking the right to do so away from it."""
    refused = tmp_path / "bwrap"
    drop = "setpriv --bounding-set=-sys_admin --inh-caps=-all --no-new-privs"
    refused.write_text(f'#!/bin/sh\nexec {drop} /usr/bin/bwrap "$@"\n')
    refused.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ServerFailed, match=r'sandbox cannot be set up: bwrap: .*sandbox = "none"'):
        exporter.export(device(raw))


def qcow2_with_data_file(path: Path) -> str:
    options = f"data_file={path.with_name('inner')},data_file_raw=on"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "1M"], check=True)
    return "qcow2"


def vmdk_with_flat_extent(path: Path) -> str:
    subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", path, "1M"], check=True)
    extent = path.with_name(f"{path.name}-flat")
    path.write_bytes(path.read_bytes().replace(b'"outer-flat"', f'"{extent}"'.encode()))
    return "vmdk"


@pytest.mark.parametrize("make", [qcow2_with_data_file, vmdk_with_flat_extent])
def test_an_image_that_refers_to_another_file_is_not_served_even_without_sandbox(
    make_exporter: Callable[..., Exporter], tmp_path: Path, make: Callable[[Path], str]
) -> None:
    path = tmp_path / "outer"
    image = device(path, format_name=make(path), size_bytes=MiB)
    before = set(children(os.getpid()))
    with pytest.raises(UnsafeImage, match="not part of the disk"):
        make_exporter(sandbox="none").export(image)
    assert set(children(os.getpid())) <= before
    with pytest.raises(ServerFailed, match="No such file"):
        make_exporter().export(image)


UNPRIVILEGED = """
import encodings.idna, os, sys  # what is imported late may be out of reach for that user
from pathlib import Path
from tests.core.nbd.exporter import Exporter, device
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
directory, sandbox = Path(sys.argv[1]), sys.argv[2]
exporter = Exporter(directory / "exports", sandbox=sandbox)
served = exporter.export(device(directory / "disk.raw"))
with served.connect() as client:
    print(client.read(0, 512).hex(), exporter.servers.client_count(served.id))
successor = exporter.succeeded()
assert successor.adopt(served, served.process) == served.process
successor.stop_all()
"""


@as_root
@pytest.mark.parametrize("sandbox", ["bubblewrap", "none"])
def test_an_unprivileged_user_can_export_what_it_can_read(sandbox: str) -> None:
    content = os.urandom(MiB)
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are closed to other users
        Path(directory, "disk.raw").write_bytes(content)
        os.chown(directory, 65534, 65534)
        ran = subprocess.run(
            [sys.executable, "-c", UNPRIVILEGED, directory, sandbox],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert ran.stdout.split() == [content[:512].hex(), "1"], ran.stderr
