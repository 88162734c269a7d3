"""What Prometheus is shown."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.api.service import Service, running, settings_for


def samples(service: Service) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample, by its name and labels."""
    answer = service.client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def requests(service: Service, method: str, route: str, status: str) -> float:
    labels = (("method", method), ("route", route), ("status", status))
    return samples(service).get(("cloudmanager_http_requests_total", labels), 0)


@pytest.fixture(scope="module")
def measured(directory: Path) -> Service:  # type: ignore[misc]
    with running(settings_for(directory, server={"state_dir": str(directory / "measured")})) as service:
        yield service


def test_exports_are_counted_by_state_and_access(measured: Service) -> None:
    def ready(access: str) -> float:
        return samples(measured).get(("cloudmanager_exports", (("access", access), ("state", "ready"))), 0)

    assert ready("scratch") == 0
    measured.export("local:a.img")
    measured.export("local:a.img")
    measured.export("local:a.img", "scratch")
    assert (ready("read-only"), ready("scratch"), ready("read-write")) == (2, 1, 0)


def test_attachments_are_counted_by_state(measured: Service) -> None:
    measured.export("local:b.img")
    listed = measured.client.get("/v1/attachments").json()["items"]
    counted = {
        labels: value for (name, labels), value in samples(measured).items() if name == "cloudmanager_attachments"
    }
    assert sum(counted.values()) == len(listed) > 0


def test_the_time_to_ready_is_measured_where_somebody_waited(measured: Service) -> None:
    def count() -> float:
        return samples(measured)["cloudmanager_export_ready_seconds_count", ()]

    before = count()
    measured.export("local:a.img", wait=20)
    assert count() == before + 1
    measured.export("local:a.img", wait=None)
    assert count() == before + 1


def test_requests_are_counted_by_route_and_status(measured: Service) -> None:
    export = measured.export("local:a.img")
    for path in (f"/v1/exports/{export['id']}", "/v1/exports/other", "/v1/exports/another"):
        measured.client.get(path)
    assert requests(measured, "GET", "/v1/exports/{export_id}", "200") == 1
    assert requests(measured, "GET", "/v1/exports/{export_id}", "404") == 2


def test_what_a_client_makes_up_is_no_new_time_series(measured: Service) -> None:
    for number in range(5):
        measured.client.get(f"/made/up/{number}")
        measured.client.request("PROPFIND", "/healthz")
    assert requests(measured, "GET", "none", "404") == 5
    assert requests(measured, "other", "/healthz", "405") == 5


def test_two_apps_in_one_process_count_apart(measured: Service, directory: Path, tmp_path: Path) -> None:
    measured.client.get("/healthz")
    with running(settings_for(directory, server={"state_dir": str(tmp_path)})) as other:
        assert requests(other, "GET", "/healthz", "200") == 0
