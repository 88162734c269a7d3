"""An operator's commands, against a service that runs."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.service import Service, running, settings_for
from tests.cli.conftest import CommandLine
from tests.waiting import eventually

Admin = Callable[..., str]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    settings = settings_for(tmp_path)
    (tmp_path / "images" / "a.img").write_bytes(os.urandom(1 << 20))
    with running(settings) as service:
        yield service


@pytest.fixture
def admin(cli: CommandLine, service: Service) -> Admin:
    def run(*arguments: str, **environment: str) -> str:
        answer = cli("admin", *arguments, env={"CLOUDMANAGER_URL": service.url, **environment})
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    return run


def events(service: Service, name: str) -> list[dict[str, Any]]:
    return [event for event in service.client.get("/v1/audit").json()["items"] if event["event"] == name]


def test_an_export_is_cut_off_by_command(admin: Admin, service: Service) -> None:
    export_id = str(service.export("local:a.img")["id"])
    output = admin("force-release", export_id, "--by", "nina", "--reason", "It is evidence.")
    assert output.startswith(f"{export_id} of local:a.img is clos")
    (event,) = events(service, "export.force-released")
    assert (event["ordered_by"], event["detail"]) == ("nina", "It is evidence.")
    eventually(lambda: service.client.get(f"/v1/exports/{export_id}").json()["state"] == "closed", "it is not closed")


def test_a_provider_is_paused_and_resumed_by_command(admin: Admin, service: Service) -> None:
    assert admin("pause", "local", "--by", "nina", "--reason", "Why not?") == (
        "provider local: paused by nina; Why not?\n"
    )
    assert json.loads(admin("status", "--json"))["providers"][0]["pause"]["by"] == "nina"
    assert admin("resume", "local", CLOUDMANAGER_HOLDER="otto") == "provider local: in use\n"
    assert [events(service, f"provider.{what}")[0]["ordered_by"] for what in ("paused", "resumed")] == ["nina", "otto"]


def test_the_only_node_is_drained_by_command_and_who_did_it_is_known(admin: Admin, service: Service) -> None:
    export_id = str(service.export("local:a.img")["id"])
    assert "here: draining by" in admin("drain")
    assert events(service, "node.draining")[0]["ordered_by"].endswith(f"@{os.uname().nodename}")
    service.client.delete(f"/v1/exports/{export_id}")
    eventually(lambda: service.client.get("/v1/nodes").json()["items"][0]["state"] == "drained", "it is not drained")
    assert "; 0 exports, 0 disks attached" in admin("status")
    assert json.loads(admin("undrain", "here", "--json"))["state"] == "active"


def test_an_order_that_is_refused_ends_with_1_and_says_why(cli: CommandLine, service: Service) -> None:
    answer = cli("admin", "pause", "prod", env={"CLOUDMANAGER_URL": service.url})
    assert answer.returncode == 1
    assert "No provider 'prod' is configured" in answer.stderr


def test_one_of_several_nodes_must_be_named(cli: CommandLine, service: Service) -> None:
    service.manager._store.nodes.begin_session("there", "a session", "an identity", "a machine", 30)
    answer = cli("admin", "drain", env={"CLOUDMANAGER_URL": service.url})
    assert answer.returncode == 2
    assert "name one of here, there" in answer.stderr
