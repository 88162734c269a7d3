"""What plugins and providers raise, as a client sees it. Real plugins, around the local provider."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from cloudmanager import Device, Disk, ExportRequest, errors, hookimpl
from tests.api.service import Service, running, settings_for


class Trouble:
    """A plugin that lets hooks raise."""

    def __init__(self) -> None:
        self.describing: Exception | None = None
        self.locating: Exception | None = None

    @hookimpl(wrapper=True)
    def describe(self) -> Generator[None, Disk, Disk]:
        if self.describing:
            raise self.describing
        return (yield)

    @hookimpl(wrapper=True)
    def locate(self) -> Generator[None, Device, Device]:
        if self.locating:
            raise self.locating
        return (yield)

    @hookimpl
    def authorize(self, request: ExportRequest) -> None:
        if request.holder == "stranger":
            raise errors.Refused("Strangers may not read evidence. Ask the laboratory's head.")


@pytest.fixture(scope="module")
def trouble() -> Trouble:
    return Trouble()


@pytest.fixture(scope="module")
def troubled(directory: Path, trouble: Trouble) -> Iterator[Service]:
    settings = settings_for(directory, server={"state_dir": str(directory / "troubled")})
    with running(settings, ("trouble", trouble)) as service:
        yield service


@pytest.fixture(autouse=True)
def _no_trouble_before(trouble: Trouble) -> None:
    trouble.describing = trouble.locating = None


def test_a_refusal_gives_the_policys_reason(troubled: Service) -> None:
    answer = troubled.client.post("/v1/exports", json={"disk": "local:a.img", "holder": "stranger"})
    assert (answer.status_code, answer.json()["code"]) == (403, "refused")
    assert answer.json()["detail"] == "Strangers may not read evidence. Ask the laboratory's head."


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.AccessDenied("The role lacks compute.disks.get.", cloud_code="PERMISSION_DENIED"), 502),
        (errors.Throttled("Too many requests.", cloud_code="RequestLimitExceeded", retry_after=7.0), 503),
        (errors.WrongZone("The disk is in b, this machine in c.", cloud_code="invalid"), 422),
    ],
    ids=lambda value: getattr(value, "code", value),
)
def test_an_error_of_the_cloud_keeps_its_code(
    troubled: Service, trouble: Trouble, error: errors.CloudManagerError, status: int
) -> None:
    trouble.describing = error
    answer = troubled.client.get("/v1/disks/local/a.img")
    shown = answer.json()
    assert (answer.status_code, shown["code"], shown["cloud_code"]) == (status, error.code, error.cloud_code)
    assert (shown["detail"], shown["retriable"]) == (error.detail, error.retriable)
    assert answer.headers.get("Retry-After") == ("7" if error.retry_after else None)


def test_a_broken_provider_is_a_502_without_internals(troubled: Service, trouble: Trouble) -> None:
    trouble.describing = ZeroDivisionError("password is hunter2")
    answer = troubled.client.post("/v1/exports", json={"disk": "local:a.img", "holder": "tester"})
    assert (answer.status_code, answer.json()["code"]) == (502, "provider_failure")
    assert "hunter2" not in answer.text


def test_what_goes_wrong_later_is_in_the_export(troubled: Service, trouble: Trouble) -> None:
    trouble.locating = errors.DeviceMismatch("Another disk is at /dev/sdb. Detach it.", cloud_code="x-1")
    export = troubled.export("local:b.img")
    assert (export["state"], export["uri"]) == ("failed", None)
    assert export["error"] == {
        "code": "device_mismatch",
        "title": "Another disk is where this one should be",
        "detail": "Another disk is at /dev/sdb. Detach it.",
        "retriable": False,
        "cloud_code": "x-1",
        "retry_after": None,
    }


def test_what_is_tried_again_shows_its_last_error_meanwhile(troubled: Service, trouble: Trouble) -> None:
    trouble.locating = errors.DeviceNotReady("The device has not appeared yet.")
    export = troubled.export("local:c.img", wait=1)
    assert export["state"] == "attaching"
    assert isinstance(export["error"], dict)
    assert (export["error"]["code"], export["error"]["retriable"]) == ("device_not_ready", True)
    trouble.locating = None
    path = f"/v1/exports/{export['id']}"
    ready = troubled.client.get(path, headers={"Prefer": "wait=30"}).json()
    assert (ready["state"], ready["error"]) == ("ready", None)
