"""What the service does for exports that nobody uses: next to nothing, and yet it notices what is done to them."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import event

from cloudmanager.core.model import Export, ExportState
from cloudmanager.providers.local.images import ImageDisks
from tests.core.bench import Bench, opened_bench
from tests.core.test_drift_of_local_disks import SIZE, LocalBench
from tests.waiting import eventually

_watched = SimpleNamespace(directory="", opened=0)


def _audit(name: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook cannot be taken away again; it counts while a directory is being watched."""
    if name == "open" and _watched.directory and str(arguments[0]).startswith((_watched.directory, "/proc/self/fd")):
        _watched.opened += 1


@cache
def _install_hook() -> None:
    """Not when this file is imported: every test of the worker would pay for the calls."""
    sys.addaudithook(_audit)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[LocalBench]:
    bench = LocalBench(tmp_path, reconcile_seconds=600)
    yield bench
    bench.clear()


def look(bench: LocalBench) -> int:
    """One regular look. Returns how often something was opened that is in the directory of images."""
    with opens_below(bench.images) as opened:
        bench.manager._reconciler._drift.look(bench.manager._plugins["local"])
    return opened()


@contextmanager
def opens_below(directory: Path) -> Iterator[Callable[[], int]]:
    """How often something in the directory was opened in the meantime."""
    _install_hook()
    _watched.directory, _watched.opened = str(directory), 0
    try:
        yield lambda: int(_watched.opened)
    finally:
        _watched.directory = ""


def settle(bench: LocalBench, *exports: Export) -> None:
    """As if the exports had been ready for a while: they are looked at, and found as they were."""
    drift = bench.manager._reconciler._drift
    for export in exports:
        drift._served[export.id].since = -math.inf
    eventually(lambda: look(bench) == 0)


def qcow2(path: Path, *options: str) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, "8M"], check=True)


def test_images_that_are_as_they_were_are_not_opened_again(bench: LocalBench) -> None:
    exports = [bench.ready(bench.image(f"{number}.raw").name) for number in range(4)]
    qcow2(bench.images / "c.qcow2")
    exports.append(bench.ready("c.qcow2"))
    settle(bench, *exports)
    assert look(bench) == 0
    assert [bench.manager.get(export.id).error for export in exports] == [None] * 5


def test_a_server_that_no_client_waits_for_costs_one_read(bench: LocalBench) -> None:
    export = bench.ready(bench.image("a.raw").name)
    settle(bench, export)
    pid = bench.manager._exports._servers.pid(export.id)
    with opens_below(Path(f"/proc/{pid}")) as opened:
        bench.manager._reconciler._drift.listen()
    assert opened() == 1


def test_an_image_that_was_found_sound_is_not_judged_again(bench: LocalBench, monkeypatch: pytest.MonkeyPatch) -> None:
    export = bench.ready(bench.image("a.raw").name)
    settle(bench, export)
    drift, judged = bench.manager._reconciler._drift, []
    monkeypatch.setattr(drift, "_judge", lambda served, _: judged.append(served))
    look(bench)
    assert judged == []


def test_the_exports_whose_servers_live_are_known_at_once(bench: LocalBench) -> None:
    exports = [bench.ready(bench.image(f"{number}.raw").name) for number in range(3)]
    servers = bench.manager._exports._servers
    assert servers.living() == {export.id for export in exports}
    bench.manager.release(exports[0].id)
    eventually(lambda: servers.living() == {export.id for export in exports[1:]})


def test_what_is_done_to_an_image_after_an_idle_time_is_noticed(bench: LocalBench) -> None:
    deleted, replaced, grown, moved = (bench.ready(bench.image(f"{name}.raw").name) for name in "drgm")
    settle(bench, deleted, replaced, grown, moved)
    (bench.images / "d.raw").unlink()
    bench.image("new", b"n").rename(bench.images / "r.raw")
    os.truncate(bench.images / "g.raw", 2 * SIZE)
    (bench.images / "m.raw").rename(bench.images / "elsewhere.raw")
    look(bench)
    assert "no image" in bench.shown(deleted)
    assert "Another file" in bench.shown(replaced)
    assert "has grown" in bench.shown(grown)
    assert "no image" in bench.shown(moved)


def test_an_image_that_is_cut_off_after_an_idle_time_is_not_served(bench: LocalBench) -> None:
    cut, container = bench.image("a.raw"), bench.images / "c.qcow2"
    qcow2(container)
    exports = [bench.ready(cut.name), bench.ready(container.name)]
    settle(bench, *exports)
    for image in (cut, container):
        os.truncate(image, image.stat().st_size // 2)
    look(bench)
    assert [bench.over(export).state for export in exports] == [ExportState.FAILED] * 2


def test_a_container_whose_header_is_written_over_after_an_idle_time_is_read_again(bench: LocalBench) -> None:
    image = bench.images / "c.qcow2"
    qcow2(image)
    export = bench.ready(image.name)
    settle(bench, export)
    status = image.stat()
    with image.open("r+b") as file:
        file.write(b"QFI\xfb\0\0\0\x63")
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))  # who hides it cannot hide the time of the inode
    look(bench)
    assert "Version 99" in bench.shown(export)


def test_a_backing_file_that_goes_away_after_an_idle_time_is_noticed(tmp_path: Path) -> None:
    bench = LocalBench(tmp_path, reconcile_seconds=600, allow_backing_from=[str(tmp_path / "images")])
    try:
        qcow2(bench.images / "base.qcow2")
        qcow2(bench.images / "top.qcow2", "-b", "base.qcow2", "-F", "qcow2")
        export = bench.ready("top.qcow2")
        settle(bench, export)
        (bench.images / "base.qcow2").unlink()
        look(bench)
        assert "backing file" in bench.shown(export)
    finally:
        bench.clear()


def test_an_image_that_was_changed_a_moment_ago_is_read_again(bench: LocalBench) -> None:
    """Within one tick of the file system's clock it may have been changed once more."""
    export = bench.ready(bench.image("a.raw").name)
    bench.manager._reconciler._drift._served[export.id].since = -math.inf
    (bench.images / "a.raw").chmod(0o640)
    assert look(bench) > 0
    assert look(bench) > 0


def test_a_name_that_leads_to_an_earlier_directory_now_is_followed_there(tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.mkdir()
    bench = LocalBench(tmp_path, reconcile_seconds=600, before=first)
    try:
        export = bench.ready(bench.image("a.raw").name)
        settle(bench, export)
        (first / "a.raw").write_bytes(b"f" * SIZE)
        look(bench)
        assert "Another file" in bench.shown(export)
    finally:
        bench.clear()


@contextmanager
def statements(bench: Bench) -> Iterator[list[str]]:
    """Those that the store is asked meanwhile."""
    found: list[str] = []

    def note(*arguments: Any) -> None:
        found.append(str(arguments[2]))

    engine = bench.manager._store._database._engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", note)


def test_the_regular_look_asks_the_store_as_much_for_many_exports_as_for_one(tmp_path: Path) -> None:
    with opened_bench(tmp_path, reconcile_seconds=600) as bench:
        counts = []
        for disk in ("one:a.img", "one:b.img", "one:c.img"):
            bench.ready(disk)
            eventually(lambda: not bench.manager._reconciler._queue.working)
            with statements(bench) as found:
                bench.manager._reconciler._look_at_all()
                counts.append(len([each for each in found if each.startswith("SELECT")]))
        assert counts == [2, 2, 2]


def test_what_is_not_as_it_should_be_is_looked_at(tmp_path: Path) -> None:
    with opened_bench(tmp_path, reconcile_seconds=600) as bench:
        bench.ready("one:a.img")
        dead = bench.ready("one:b.img")
        store, clock = bench.manager._store, bench.clock
        served = bench.manager._exports._servers.living()
        assert store.disks_with_work("here", clock.boottime(), served) == set()
        assert store.disks_with_work("here", clock.boottime(), served - {dead.id}) == {"shelf:b.img"}
        assert store.disks_with_work("here", clock.boottime() + 86400, served) == {"shelf:a.img", "shelf:b.img"}
        assert store.disks_with_work("there", clock.boottime(), served) == set()


def test_images_are_forgotten_that_are_not_asked_for_any_more(bench: LocalBench) -> None:
    export = bench.ready(bench.image("a.raw").name)
    settle(bench, export)
    (images,) = (each for each in _parts(bench) if isinstance(each, ImageDisks))
    assert len(images._seen) == 1
    images.locate_all([], None)  # type: ignore[arg-type]  # nobody's holders are asked for
    assert images._seen == {}


def _parts(bench: LocalBench) -> list[object]:
    plugin = bench.manager._plugins._manager.get_plugin("provider:local")
    return list(vars(plugin).values())
