"""Disks and exports at a shell, against a real service."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.client.conftest import PLAIN, Run
from tests.client.daemon import Daemon
from tests.waiting import eventually

DISK = "local:plain.img"


def exported(people: Run, *options: str) -> dict[str, str]:
    answer: dict[str, str] = json.loads(people("export", DISK, "--json", *options).stdout)
    return answer


def test_disks_are_listed_for_people_and_for_scripts(people: Run) -> None:
    line = next(line for line in people("disks").stdout.splitlines() if DISK in line)
    assert "1 MiB" in line
    assert "raw" in line
    listed = json.loads(people("disks", "plain", "--json").stdout)["items"]
    assert [(disk["id"], disk["size_bytes"]) for disk in listed] == [(DISK, len(PLAIN))]


def test_disks_that_are_not_there_are_said_to_be_none(people: Run) -> None:
    answer = people("disks", "no-such-name")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "No disk was found.\n")


def test_the_address_is_all_that_a_script_gets(people: Run, daemon: Daemon, tmp_path: Path) -> None:
    answer = people("export", DISK, "--holder", "tester", "--ttl", "2h")
    uri = answer.stdout.strip()
    subprocess.run(["nbdcopy", uri, tmp_path / "copy"], check=True, timeout=60)
    assert (tmp_path / "copy").read_bytes() == PLAIN
    assert "cloudmanager release" in answer.stderr
    assert "It expires in 1 h 59 min" in answer.stderr or "It expires in 2 h" in answer.stderr
    [export_id] = [export["id"] for export in daemon.exports() if export["uri"] == uri]
    assert people("release", str(export_id)).returncode == 0


def test_an_export_is_listed_renewed_and_released(people: Run, daemon: Daemon) -> None:
    made = exported(people, "--ttl", "10m", "--holder", "an-investigator")
    line = next(line for line in people("exports").stdout.splitlines() if made["id"] in line)
    assert all(word in line for word in (DISK, "read-only", "ready", "an-investigator", made["uri"]))
    assert "another 5 h" in people("renew", made["id"], "--ttl", "5h").stdout.replace("4 h 59 min", "5 h")
    assert f"{made['id']} is released" in people("release", made["id"]).stdout
    eventually(lambda: daemon.state_of(made["id"]) == "closed")
    assert made["id"] not in people("exports").stdout
    assert made["id"] in people("exports", "--all").stdout


def test_what_cannot_be_released_does_not_keep_the_others(people: Run, daemon: Daemon) -> None:
    made = exported(people)
    answer = people("release", "no-such-export", made["id"])
    assert answer.returncode == 1
    assert answer.stderr.startswith("cloudmanager: There is no export")
    eventually(lambda: daemon.state_of(made["id"]) == "closed")


def test_a_conflict_is_one_line_that_names_the_holder(people: Run) -> None:
    made = exported(people, "--holder", "the-other-one")
    answer = people("export", DISK, "--access", "read-write")
    people("release", made["id"])
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr.count("\n") == 1
    assert "the-other-one" in answer.stderr


def test_without_a_name_the_holder_is_whom_to_ask(people: Run) -> None:
    made = exported(people)
    people("release", made["id"])
    assert made["holder"].endswith(f"@{os.uname().nodename}")


@pytest.mark.parametrize("duration", ["-5", "0", "5 weeks", "", "1e3"])
def test_what_is_no_duration_is_wrong_usage(people: Run, duration: str) -> None:
    answer = people("export", DISK, f"--ttl={duration}")
    assert answer.returncode == 2
    assert "is no duration" in answer.stderr


def test_a_service_that_is_not_there_is_one_line_that_says_where_it_was_sought(people: Run) -> None:
    answer = people("--url", "http://127.0.0.1:9", "disks")
    assert answer.returncode == 1
    assert "127.0.0.1:9" in answer.stderr
    assert "Traceback" not in answer.stderr
