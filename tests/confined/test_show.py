"""A program sees the open files that it is given, whatever happens to their paths, and can do with them what it may."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloudmanager.confined import Confinement, Spawner, Unconfinable, libseccomp, mounts
from cloudmanager.confined import filter as system_calls
from tests.confined.runs import PYTHON, opened, run
from tests.loop_devices import attached, detach

STARTS = 60
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
READ = "import sys; print(open(sys.argv[1]).read(4))"
WRITE = "import sys; open(sys.argv[1], 'r+').write('BBBB')"
EXCHANGE = """
import ctypes, os, sys
print(flush=True)
names, renameat2 = [os.fsencode(word) for word in sys.argv[1:]], ctypes.CDLL(None).renameat2
while True:
    renameat2(-100, names[0], -100, names[1], 2)  # RENAME_EXCHANGE
"""


@pytest.fixture
def right(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_text("AAAA")
    return path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("SECRET")
    return path


@contextmanager
def exchanging(path: Path, other: Path) -> Iterator[None]:
    """As fast as one process can."""
    with subprocess.Popen([sys.executable, "-c", EXCHANGE, path, other], stdout=subprocess.PIPE) as exchanger:
        assert exchanger.stdout
        exchanger.stdout.readline()
        try:
            yield
        finally:
            exchanger.kill()


def showing(fd: int, *, is_writable: bool = False) -> Callable[[Confinement], dict[str, str]]:
    return lambda confinement: {"FILE": confinement.show(fd, "the file", is_writable=is_writable)}


def test_a_race_for_the_path_gives_it_no_other_file(confining: Spawner, right: Path, secret: Path) -> None:
    link = right.with_name("link")
    link.symlink_to(secret)
    with opened(right) as fd, exchanging(right, link):
        seen = {run(confining, ["/bin/cat", "FILE"], showing(fd)).output for _ in range(STARTS)}
    assert seen == {"AAAA"}


def test_a_file_that_was_renamed_or_replaced_is_still_the_one(confining: Spawner, right: Path, secret: Path) -> None:
    with opened(right) as fd:
        right.rename(right.with_name("elsewhere"))
        right.symlink_to(secret)
        assert run(confining, [PYTHON, "-c", READ, "FILE"], showing(fd)).output == "AAAA\n"


def test_a_file_that_was_deleted_is_refused(confining: Spawner, right: Path) -> None:
    with opened(right) as fd:
        right.unlink()
        with pytest.raises(Unconfinable, match="deleted") as refused:
            run(confining, [PYTHON, "-c", READ, "FILE"], showing(fd))
    assert refused.value.is_passing


def test_what_is_shown_to_be_read_cannot_be_written(confining: Spawner, right: Path) -> None:
    with opened(right, os.O_RDWR) as fd:
        assert "Read-only file system" in run(confining, [PYTHON, "-c", WRITE, "FILE"], showing(fd)).output
        assert right.read_text() == "AAAA"
        run(confining, [PYTHON, "-c", WRITE, "FILE"], showing(fd, is_writable=True))
        assert right.read_text() == "BBBB"


def test_a_directory_is_shown_with_what_comes_into_it_later(confining: Spawner, tmp_path: Path) -> None:
    with opened(tmp_path, os.O_RDONLY | os.O_DIRECTORY) as fd:
        (tmp_path / "keys").write_text("AAAA")
        program = "import sys; print(open(sys.argv[1] + '/keys').read())"
        assert run(confining, [PYTHON, "-c", program, "FILE"], showing(fd)).output == "AAAA\n"


def test_nothing_shows_on_the_machine_and_nothing_is_left(confining: Spawner, right: Path) -> None:
    """The file system of a file that was shown can be unmounted, as far as the spawner is concerned."""
    before = Path("/proc/self/mountinfo").read_text()
    with opened(right) as fd:
        for _ in range(3):
            assert run(confining, [PYTHON, "-c", READ, "FILE"], showing(fd)).output == "AAAA\n"
    assert Path("/proc/self/mountinfo").read_text() == before
    confining.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("spawn", "unmount"))]


@as_root
def test_the_spawner_keeps_no_file_system_from_being_unmounted(tmp_path: Path) -> None:
    """Also one whose mount is not shared with other namespaces, which would stay in the spawner's."""
    content, place = tmp_path / "disk", tmp_path / "mounted"
    content.touch()
    os.truncate(content, 16 * 1024 * 1024)
    place.mkdir()
    subprocess.run(["mke2fs", "-q", content], check=True)
    device = attached(content)
    try:
        subprocess.run(["mount", device, place], check=True)
        with Spawner(is_sandboxed=True, holds=False) as spawner:
            (place / "image").write_text("AAAA")
            with opened(place / "image") as fd:
                assert run(spawner, [PYTHON, "-c", READ, "FILE"], showing(fd)).output == "AAAA\n"
            subprocess.run(["umount", place], check=True)
            _until_free(device)
    finally:
        subprocess.run(["umount", place], check=False, capture_output=True)
        detach(device)


def _until_free(device: Path) -> None:
    """An exclusive open succeeds only when nothing has mounted it; the last mount is taken away beside the starts."""
    for _ in range(200):
        try:
            os.close(os.open(device, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC))
        except OSError:
            threading.Event().wait(0.05)
        else:
            return
    raise AssertionError(f"{device} is still mounted somewhere")


@as_root
def test_a_kernel_without_mounts_of_open_files_is_served_by_bubblewrap(
    right: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before Linux 5.2: never another file, though a race costs attempts."""
    monkeypatch.setattr(mounts, "_has_trees", lambda: False)
    link = right.with_name("link")
    link.symlink_to(secret)
    with Spawner(is_sandboxed=True, holds=False) as spawner, opened(right) as fd, exchanging(right, link):
        assert {run(spawner, ["/bin/cat", "FILE"], showing(fd)).output for _ in range(20)} == {"AAAA"}


@as_root
def test_a_start_that_is_tried_again_finds_its_device_node_again(
    right: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "_has_trees", lambda: False)
    link, disk = right.with_name("link"), tmp_path / "disk"
    link.symlink_to(right)
    disk.write_bytes(b"B" * 4096)
    device = attached(disk)
    try:
        with (
            Spawner(is_sandboxed=True, holds=False) as spawner,
            opened(right) as file,
            opened(device) as node,
            exchanging(right, link),
        ):

            def prepare(confinement: Confinement) -> dict[str, str]:
                return {"FILE": confinement.show(file, "the file"), "NODE": confinement.show(node, str(device))}

            seen = {run(spawner, ["/bin/cat", "FILE", "NODE"], prepare).output for _ in range(20)}
        assert seen == {"AAAA" + "B" * 4096}
    finally:
        detach(device)


@as_root
def test_an_open_file_of_no_file_system_is_refused(tmp_path: Path) -> None:
    fd = os.memfd_create("nowhere")
    try:
        with Spawner(is_sandboxed=True, holds=False) as spawner:
            with pytest.raises(Unconfinable, match="the file cannot be shown to a sandbox"):
                run(spawner, [PYTHON, "-c", READ, "FILE"], showing(fd))
    finally:
        os.close(fd)


def test_a_bubblewrap_that_cannot_show_open_files_is_refused(
    right: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "bwrap"
    old.write_text("#!/bin/sh\necho usage: bwrap\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("cloudmanager.confined.spawner.is_privileged", lambda: False)
    with Spawner(is_sandboxed=True, holds=False) as spawner, opened(right) as fd:
        with pytest.raises(Unconfinable, match=r"install version 0\.10"):
            run(spawner, [PYTHON, "-c", READ, "FILE"], showing(fd))


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What was loaded and made before is not used."""
    caches = (system_calls.allow_list, system_calls.hold_only, libseccomp._library)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize(("is_sandboxed", "holds"), [(True, False), (True, True), (False, True)])
def test_without_the_library_of_filters_nothing_starts(
    is_sandboxed: bool, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libseccomp, "_LIBRARY", "libseccomp-not-here.so.2")
    with Spawner(is_sandboxed=is_sandboxed, holds=holds) as spawner:
        with pytest.raises(Unconfinable, match="install the package libseccomp2"):
            run(spawner, ["/bin/true"])
