"""Every error has a status, and tells what a client needs."""

import asyncio
import errno
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from cloudmanager.api import errors as http_errors
from cloudmanager.api.errors import InvalidFields
from cloudmanager.api.middleware import DefectHandler
from cloudmanager.api.problems import STATUS, install, status_of
from cloudmanager.core import errors as core_errors
from cloudmanager.core.errors import CloudManagerError, Conflict, ExportNotReady, StoreUnavailable, Throttled
from tests.api.service import Service, running, settings_for


def classes_of(module: object) -> list[type[CloudManagerError]]:
    return [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, CloudManagerError)]


EVERY_CLASS = [*classes_of(core_errors), *classes_of(http_errors)]


@pytest.mark.parametrize("kind", EVERY_CLASS, ids=lambda kind: kind.__name__)
def test_every_error_class_has_a_status_of_its_own(kind: type[CloudManagerError]) -> None:
    assert kind in STATUS


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in STATUS if kind is not InvalidFields]
    assert len(codes) == len(set(codes))


def test_what_may_work_later_is_a_503_unless_it_is_up_to_an_export() -> None:
    later = {kind for kind in STATUS if kind.retriable}
    assert {kind for kind, status in STATUS.items() if status == 503} >= later - {ExportNotReady}
    assert status_of(ExportNotReady) == 409


def test_an_error_of_a_plugin_has_the_status_of_what_it_derives_from() -> None:
    class DiskLocked(Conflict):
        code = "disk_locked"

    assert status_of(DiskLocked) == 409


def answer_to(error: Exception) -> httpx.Response:
    """Of an app with a route that fails like this."""
    app = FastAPI()
    install(app)
    app.add_middleware(DefectHandler)

    @app.get("/")
    async def fail() -> None:
        raise error

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.get("/")

    return asyncio.run(ask())


def test_a_cloud_error_keeps_the_clouds_code_and_its_wish_to_be_left_alone() -> None:
    error = Throttled("Too many requests to us-central1-b.", cloud_code="rateLimitExceeded", retry_after=2.5)
    answer = answer_to(error)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "3")
    shown = {key: answer.json()[key] for key in ("code", "cloud_code", "retry_after", "retriable")}
    assert shown == {"code": "throttled", "cloud_code": "rateLimitExceeded", "retry_after": 2.5, "retriable": True}


def test_what_the_service_or_a_cloud_did_wrong_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    answer_to(StoreUnavailable("The disk of the store is full."))
    assert caplog.messages == ["GET /: The disk of the store is full. (store_unavailable)"]


def test_what_the_client_did_wrong_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    answer_to(Conflict("Somebody else has it."))
    assert not caplog.messages


def test_a_defect_is_a_problem_without_internals_and_is_logged_with_them(caplog: pytest.LogCaptureFixture) -> None:
    answer = answer_to(ZeroDivisionError("password is hunter2"))
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "hunter2" not in answer.text
    (record,) = caplog.records
    assert (record.message, record.exc_info and record.exc_info[0]) == ("GET / failed", ZeroDivisionError)


def test_what_has_run_out_is_no_defect_and_is_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    answer = answer_to(OSError(errno.EMFILE, "Too many open files"))
    assert (answer.status_code, answer.json()["code"]) == (503, "resources_exhausted")
    assert (answer.json()["retriable"], "Retry-After" in answer.headers) == (True, True)
    (record,) = caplog.records
    assert record.exc_info is None


def test_a_defect_leaves_the_service_up(service: Service) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    service.server.config.app.add_api_route("/defect", fail)
    assert service.client.get("/defect").status_code == 500
    assert service.client.get("/healthz").status_code == 200  # on the same connection


@contextmanager
def without_tables(database: Path, *tables: str) -> Iterator[None]:
    """Takes tables out of a store that is in use, and puts them back."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA legacy_alter_table=ON")  # leaves the references of other tables alone
        for table in tables:
            connection.execute(f"ALTER TABLE {table} RENAME TO {table}_hidden")
        try:
            yield
        finally:
            for table in tables:
                connection.execute(f"ALTER TABLE {table}_hidden RENAME TO {table}")


def test_a_store_that_cannot_be_read_is_a_503(directory: Path, tmp_path: Path) -> None:
    with running(settings_for(directory, server={"state_dir": str(tmp_path)})) as service:
        assert service.client.get("/readyz").json()["ready"] is True
        with without_tables(tmp_path / "cloudmanager.sqlite", "exports", "nodes"):
            answer = service.client.get("/v1/exports")
            ready = service.client.get("/readyz")
            alive = service.client.get("/healthz")
    assert (answer.status_code, answer.json()["code"], answer.json()["retriable"]) == (503, "store_unavailable", True)
    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    assert alive.status_code == 200
