from collections.abc import Generator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from cloudmanager import Access, Disk, DiskId, ExportRequest, Query, hookimpl
from cloudmanager.core.errors import (
    ConfigurationError,
    DiskNotFound,
    PluginError,
    ProviderFailure,
    ProviderNotFound,
    Refused,
)
from cloudmanager.core.plugins import ENTRY_POINT_GROUP, Plugins
from tests.core.providers import Shelf, ShelfPlugin, ShelfProvider


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    for name in ("a.img", "b.img", "c.img"):
        (tmp_path / name).write_bytes(name.encode())
    return Shelf(tmp_path)


def _plugins(shelf: Shelf, *others: object) -> Plugins:
    plugins = Plugins([("shelf", ShelfPlugin(shelf)), *((f"other{n}", each) for n, each in enumerate(others))])
    plugins.configure({"one": {"type": "shelf"}, "two": {"type": "shelf"}})
    return plugins


def _offering(*types: type) -> object:
    class Plugin:
        @hookimpl
        def register_providers(self) -> list[type]:
            return list(types)

    return Plugin()


def test_two_providers_of_one_type_never_answer_for_each_other(shelf: Shelf) -> None:
    plugins = _plugins(shelf)
    for name in ("one", "two"):
        assert plugins[name].describe(DiskId(name, "a.img")).id.provider == name
    assert shelf.calls == ["describe a.img"] * 2


def test_the_built_in_providers_come_in_through_the_entry_points() -> None:
    assert {each.name for each in entry_points(group=ENTRY_POINT_GROUP)} >= {"local"}
    assert Plugins().provider_types.keys() >= {"local"}


def test_a_plugin_wraps_the_hooks_of_any_provider(shelf: Shelf) -> None:
    seen = []

    class Meter:
        @hookimpl(wrapper=True)
        def describe(self, provider: str, disk_id: DiskId) -> Generator[None, Disk, Disk]:
            disk = yield
            seen.append((provider, disk_id.native, disk.size_bytes))
            return disk

    _plugins(shelf, Meter())["two"].describe(DiskId("two", "b.img"))
    assert seen == [("two", "b.img", 5)]


def test_a_policy_plugin_refuses_an_export(shelf: Shelf) -> None:
    class Policy:
        @hookimpl
        def authorize(self, provider: str, request: ExportRequest) -> None:
            if request.access.writes_disk and provider == "one":
                raise Refused(f"{request.holder} may not write.")

    plugins = _plugins(shelf, Policy())
    disk = plugins["one"].describe(DiskId("one", "a.img"))
    plugins.authorize(ExportRequest(disk, Access.READ_ONLY, "alice", is_attached=False))
    with pytest.raises(Refused, match="alice may not write"):
        plugins.authorize(ExportRequest(disk, Access.READ_WRITE, "alice", is_attached=False))


def test_a_policy_that_breaks_refuses(shelf: Shelf) -> None:
    class Broken:
        @hookimpl
        def authorize(self) -> None:
            raise KeyError("secret")

    plugins = _plugins(shelf, Broken())
    disk = plugins["one"].describe(DiskId("one", "a.img"))
    with pytest.raises(ProviderFailure) as caught:
        plugins.authorize(ExportRequest(disk, Access.READ_ONLY, "alice", is_attached=False))
    assert "secret" not in caught.value.detail


def test_an_error_of_the_core_passes_unchanged_and_any_other_becomes_one(shelf: Shelf) -> None:
    plugins = _plugins(shelf)
    with pytest.raises(DiskNotFound):
        plugins["one"].describe(DiskId("one", "none"))
    shelf.directory = None  # type: ignore[assignment]  # whatever the provider trips over
    with pytest.raises(ProviderFailure, match="TypeError") as caught:
        plugins["one"].describe(DiskId("one", "a.img"))
    assert not caught.value.retriable


def test_no_answer_is_an_error_not_a_none(shelf: Shelf) -> None:
    class Silent(ShelfProvider):
        type = "silent"

        @hookimpl
        def describe(self) -> None:  # type: ignore[override]
            """Answers nothing."""

    plugins = Plugins([("silent", _offering(Silent))])
    plugins.configure({"quiet": {"type": "silent"}})
    with pytest.raises(ProviderFailure, match="no answer to describe"):
        plugins["quiet"].describe(DiskId("quiet", "a.img"))


def test_every_page_of_a_listing_can_be_asked_for(shelf: Shelf) -> None:
    provider = _plugins(shelf)["one"]
    first = provider.find(Query())
    second = provider.find(Query(), first.next_page)
    assert [disk.id.native for disk in (*first.items, *second.items)] == ["a.img", "b.img", "c.img"]
    assert second.next_page is None


def test_an_unknown_provider_and_type_name_the_near_miss(shelf: Shelf) -> None:
    plugins = _plugins(shelf)
    with pytest.raises(ProviderNotFound, match="did you mean 'two'"):
        plugins["twoo"]
    with pytest.raises(ConfigurationError, match="did you mean 'shelf'"):
        plugins.configure({"x": {"type": "shelv"}})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "needs a type"),
        ({"type": "shelf", "read_only_atach": True}, "did you mean 'read_only_attach'"),
        ({"type": "shelf", "read_only_attach": "perhaps"}, r"providers\.x\.read_only_attach"),
    ],
)
def test_a_providers_settings_are_checked(shelf: Shelf, table: dict[str, object], message: str) -> None:
    plugins = Plugins([("shelf", ShelfPlugin(shelf))])
    with pytest.raises(ConfigurationError, match=message):
        plugins.configure({"x": table})


def test_a_provider_with_a_bad_name_is_refused(shelf: Shelf) -> None:
    with pytest.raises(ConfigurationError, match="lower-case"):
        Plugins([("shelf", ShelfPlugin(shelf))]).configure({"My Cloud": {"type": "shelf"}})


class _NoLocate(ShelfProvider):
    type = "nolocate"
    locate = None  # type: ignore[assignment]


class _NoSettings(ShelfProvider):
    type = "nosettings"
    Settings = None  # type: ignore[assignment]


class _UnknownHook:
    @hookimpl
    def atach(self) -> None: ...


class _WrongArgument:
    @hookimpl(wrapper=True)
    def attach(self, plam: object) -> Generator[None, object, object]:  # noqa: ARG002 - the mistake
        return (yield)


class _Answers:
    @hookimpl
    def describe(self) -> Disk:
        raise AssertionError


class _BreaksAtStart:
    @hookimpl
    def register_providers(self) -> list[type]:
        raise RuntimeError("oh")


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (_offering(_NoLocate), "nolocate does not implement locate"),
        (_offering(_NoSettings), "lacks a `type` name or a `Settings` model"),
        (_offering(ShelfProvider, ShelfProvider), "which another plugin offers already"),
        (_UnknownHook(), "hook that does not exist"),
        (_WrongArgument(), "cannot be registered"),
        (_Answers(), "though it is no provider"),
        (_BreaksAtStart(), "failed in register_providers"),
    ],
)
def test_a_broken_plugin_stops_the_start_with_its_name(plugin: object, message: str) -> None:
    with pytest.raises(PluginError, match=message) as caught:
        Plugins([("culprit", plugin)])
    assert "culprit" in caught.value.detail
