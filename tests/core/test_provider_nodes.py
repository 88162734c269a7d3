"""A provider that cannot say who this machine is keeps nobody from the others' disks."""

import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from cloudmanager import Access, Node, hookimpl
from cloudmanager.core.catalog import ProviderStatus
from cloudmanager.core.errors import AccessDenied, CloudManagerError, CloudUnavailable, ConfigurationError
from cloudmanager.core.model import ExportState, Severity
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.provider_nodes import ProviderNodes
from tests.core.bench import Bench, content, opened_bench
from tests.core.providers import Shelf, ShelfPlugin
from tests.waiting import eventually


class Outage:
    """Of one provider's metadata: raises, or hangs."""

    def __init__(self, provider: str, error: Callable[[], CloudManagerError] | None) -> None:
        """Without an error, it hangs."""
        self.provider = provider
        self.error = error
        self.over = threading.Event()

    @hookimpl(wrapper=True)
    def node(self, provider: str) -> Generator[None, Node, Node]:
        if provider == self.provider and not self.over.is_set():
            if self.error is not None:
                raise self.error()
            self.over.wait(60)
        return (yield)


def passing() -> CloudManagerError:
    return CloudUnavailable("The metadata server gave no answer.")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with opened_bench(tmp_path) as bench:
        yield bench


def strike(bench: Bench, outage: Outage) -> None:
    """The service is started in the outage."""
    bench.manager.close()
    bench.others.append(("outage", outage))
    bench.open()


def status(bench: Bench, provider: str) -> ProviderStatus:
    return next(status for status in bench.manager.providers() if status.name == provider)


def test_exports_of_other_providers_are_managed_while_one_is_in_an_outage(bench: Bench) -> None:
    served, waiting = bench.ready(), bench.ready("two:b.img")
    strike(bench, Outage("two", passing))
    assert content(bench.manager.get(served.id))
    assert bench.manager.get(waiting.id).state is ExportState.READY
    bench.end(served)
    eventually(lambda: "shelf:a.img" not in bench.shelf.attached)


def test_an_outage_is_shown_and_ends_by_itself(bench: Bench) -> None:
    outage = Outage("two", passing)
    strike(bench, outage)
    shown = status(bench, "two")
    assert shown.error is not None
    assert (shown.node, shown.error.code, shown.error.retriable) == (None, "cloud_unavailable", True)
    assert status(bench, "one").error is None
    (finding,) = [each for each in bench.manager.readiness() if each.severity is not Severity.OK]
    assert (finding.subject, finding.severity) == ("provider two", Severity.WARNING)
    assert "gave no answer" in finding.advice
    outage.over.set()
    eventually(lambda: status(bench, "two").node)
    assert {finding.severity for finding in bench.manager.readiness()} == {Severity.OK}


@pytest.mark.parametrize("error", [ConfigurationError("Name the zone."), AccessDenied("No."), ZeroDivisionError()])
def test_what_waiting_does_not_mend_stops_the_start(bench: Bench, error: CloudManagerError) -> None:
    bench.manager.close()
    bench.others.append(("outage", Outage("two", lambda: error)))
    with pytest.raises(CloudManagerError, match=getattr(error, "detail", "ZeroDivisionError")):
        bench.open()
    bench.manager.close()
    bench.others.clear()
    bench.open()


def test_a_provider_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    outage = Outage("one", None)
    plugins = Plugins([("shelf", ShelfPlugin(Shelf(tmp_path))), ("outage", outage)])
    plugins.configure({"one": {"type": "shelf"}, "two": {"type": "shelf"}})
    provider_nodes = ProviderNodes(plugins, timeout_seconds=0.1)
    provider_nodes.learn()
    assert provider_nodes.of("two").node == Node("librarian")
    error = provider_nodes.of("one").error
    assert error is not None
    assert "has not answered yet" in error.detail
    outage.over.set()
    eventually(lambda: provider_nodes.of("one").node)
    provider_nodes.close()


def test_an_export_of_a_provider_in_an_outage_can_still_be_asked_for(bench: Bench) -> None:
    strike(bench, Outage("two", passing))
    export = bench.manager.export("two:a.img", Access.READ_ONLY, "alice")
    assert bench.manager.wait(export.id, 20).state is ExportState.READY
