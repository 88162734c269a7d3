"""A disk has one canonical id while a service's state directory exists, whatever becomes of /etc/machine-id."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloudmanager import Access, hookimpl
from cloudmanager.core.errors import AccessConflict
from cloudmanager.core.manager import Manager
from cloudmanager.core.model import Export, ExportState
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.settings import from_tables
from cloudmanager.core.wiring import open_manager
from cloudmanager.providers.local import LocalProvider
from cloudmanager.providers.local.roots import Roots
from cloudmanager.providers.local.settings import LocalSettings
from tests.providers.local.conftest import disk_id
from tests.waiting import BOUND, eventually

ID = "0123456789abcdef0123456789abcdef\n"


def _vanishes(file: Path) -> None:
    file.unlink()


def _is_empty(file: Path) -> None:
    file.write_text("")


def _is_uninitialized(file: Path) -> None:
    file.write_text("uninitialized\n")


def _is_another(file: Path) -> None:
    file.write_text(ID[::-1])


CHANGES = pytest.mark.parametrize("change", [_vanishes, _is_empty, _is_uninitialized, _is_another])
Change = Callable[[Path], None]


@pytest.fixture
def machine_id(tmp_path: Path) -> Path:
    file = tmp_path / "machine-id"
    file.write_text(ID)
    return file


def local(directory: Path, machine_id: Path) -> LocalProvider:
    """Without a product_uuid, so that nothing stands in for the machine id but the host name."""
    roots = Roots(sys=machine_id.parent / "no sys", machine_id=machine_id)
    return LocalProvider("local", LocalSettings(images=(directory,)), roots)


@CHANGES
def test_while_a_provider_lives_the_machine_keeps_its_name(
    directory: Path, raw: Path, machine_id: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = local(directory, machine_id)
    change(machine_id)  # before anything was asked
    first = provider.describe(disk_id(raw.name))
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")
    assert provider.describe(disk_id(raw.name)).canonical_id == first.canonical_id
    machine_id.write_text(ID)
    assert local(directory, machine_id).describe(disk_id(raw.name)).canonical_id == first.canonical_id
    assert provider.node().name != "renamed"


@CHANGES
def test_the_name_is_kept_for_the_next_service(
    directory: Path, raw: Path, machine_id: Path, change: Change, tmp_path: Path
) -> None:
    before = local(directory, machine_id)
    before.keep_in(tmp_path)
    change(machine_id)
    after = local(directory, machine_id)
    after.keep_in(tmp_path)
    assert after.describe(disk_id(raw.name)).canonical_id == before.describe(disk_id(raw.name)).canonical_id
    assert after.node() == before.node()


def test_a_machine_without_any_id_keeps_the_name_that_it_was_given(
    directory: Path, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container, whose host name is another one after each start."""
    before = local(directory, tmp_path / "nothing")
    before.keep_in(tmp_path)
    monkeypatch.setattr(socket, "gethostname", lambda: "another-container")
    after = local(directory, tmp_path / "nothing")
    after.keep_in(tmp_path)
    assert after.describe(disk_id(raw.name)).canonical_id == before.describe(disk_id(raw.name)).canonical_id


class Service:
    """A manager with two local providers on one machine."""

    def __init__(self, directory: Path, machine_id: Path) -> None:
        self._directory = directory
        roots = Roots(sys=machine_id.parent / "no sys", machine_id=machine_id)

        class Here(LocalProvider):
            def __init__(self, name: str, settings: LocalSettings) -> None:
                super().__init__(name, settings, roots)

        class Plugin:
            @hookimpl
            def register_providers(self) -> list[type]:
                return [Here]

        self._plugin = Plugin()

    @contextmanager
    def running(self) -> Iterator[Manager]:
        settings = from_tables(
            {
                "server": {"state_dir": str(self._directory.parent / "state"), "node": "here"},
                "exports": {"drain_seconds": 0, "reconcile_seconds": 0.1},
                "nbd": {"ports": "20100-20199"},
            }
        )
        plugins = Plugins([("here", self._plugin)])
        table = {"type": "local", "images": [str(self._directory)]}
        plugins.configure({"one": table, "two": table})
        manager = open_manager(settings, plugins)
        manager.start()
        try:
            yield manager
        finally:
            manager.close()


def ready(manager: Manager, disk: str) -> Export:
    export = manager.wait(manager.export(disk, Access.READ_ONLY, "alice").id, BOUND)
    assert export.state is ExportState.READY, export.error
    return export


@CHANGES
def test_no_second_claim_is_granted_beside_the_first(
    directory: Path, raw: Path, machine_id: Path, change: Change
) -> None:
    service = Service(directory, machine_id)
    with service.running() as manager:
        export = ready(manager, f"one:{raw.name}")
        change(machine_id)
        with pytest.raises(AccessConflict):
            manager.export(f"two:{raw.name}", Access.READ_WRITE, "bob")
    with service.running() as manager:
        with pytest.raises(AccessConflict):
            manager.export(f"two:{raw.name}", Access.READ_WRITE, "bob")
        manager._reconciler._drift.look(manager._plugins["one"])
        now = manager.get(export.id)
        assert (now.state, now.error) == (ExportState.READY, None)
        manager.release(export.id)
        eventually(lambda: manager.get(export.id).state.is_over)
