"""`cloudmanager deploy`, onto disks of a real service and onto files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.checkout import ROOT
from tests.cli.client.conftest import Run
from tests.client.daemon import Daemon
from tests.client.deploy import images
from tests.client.deploy.servers import serving
from tests.waiting import eventually

MIB = 1024 * 1024
SIZE = 12 * MIB
DH = ROOT / "cloudmanager" / "core" / "nbd" / "ffdhe2048.pem"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images.sparse_image(tmp_path_factory.mktemp("images") / "image.raw", SIZE)


@pytest.fixture(autouse=True)
def _own_journals(environment: dict[str, str], tmp_path: Path) -> None:
    environment["XDG_STATE_HOME"] = str(tmp_path / "state")


@pytest.fixture
def disk(daemon: Daemon, request: pytest.FixtureRequest) -> Path:
    """A disk of the service's, `local:NAME`, that is empty."""
    path = daemon.images / f"{request.node.name}.raw"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


def test_an_image_arrives_on_a_disk_of_the_service(people: Run, image: Path, disk: Path, daemon: Daemon) -> None:
    answer = people("deploy", str(image), f"local:{disk.name}", "--verify")
    assert answer.returncode == 0, answer.stderr
    assert "12 MiB deployed" in answer.stderr
    assert "verified" in answer.stderr
    assert images.same(image, disk)
    eventually(lambda: all(export["state"] == "closed" for export in daemon.exports()))


def test_a_disk_of_the_service_is_an_image(people: Run, daemon: Daemon, tmp_path: Path) -> None:
    answer = people("deploy", "local:system.img", str(tmp_path / "copy.raw"))
    assert answer.returncode == 0, answer.stderr
    assert images.same(daemon.images / "system.img", tmp_path / "copy.raw")
    newest = daemon.exports()[0]
    assert (newest["disk"], newest["access"]) == ("local:system.img", "read-only")


def test_events_are_lines_of_json(people: Run, image: Path, tmp_path: Path) -> None:
    answer = people("deploy", str(image), str(tmp_path / "disk"), "--json", "--verify")
    events = [json.loads(line) for line in answer.stdout.splitlines()]
    assert events[0]["phase"] == "checking"
    assert {"flushing", "verifying"} <= {event.get("phase") for event in events}
    assert events[-1]["event"] == "done"
    assert (events[-1]["size_bytes"], events[-1]["is_verified"]) == (SIZE, True)
    assert answer.stderr == ""


def test_a_target_that_is_not_empty_is_refused(people: Run, image: Path, tmp_path: Path) -> None:
    target = tmp_path / "disk"
    target.write_bytes(b"precious" * MIB)
    answer = people("deploy", str(image), str(target))
    assert answer.returncode == 1
    assert "holds data" in answer.stderr
    assert "incomplete" not in answer.stderr
    assert target.read_bytes() == b"precious" * MIB
    assert people("deploy", str(image), str(target), "--overwrite").returncode == 0
    assert images.same(image, target)


def test_an_error_is_an_event_too(people: Run, image: Path, tmp_path: Path) -> None:
    answer = people("deploy", str(tmp_path / "absent.qcow2"), str(tmp_path / "disk"), "--json")
    last = json.loads(answer.stdout.splitlines()[-1])
    assert answer.returncode == 1
    assert (last["event"], last["error"], last["is_resumable"]) == ("failed", "SourceError", False)


@contextmanager
def _stalled(image: Path, disk: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Most of the image is on its way to the disk, and then nothing comes."""
    command = [sys.executable, "-m", "cloudmanager", "deploy", "-", f"local:{disk.name}"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(image.read_bytes()[: 9 * MIB])
        process.stdin.flush()
        eventually(lambda: images.allocated(disk))
        yield process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_told_to_stop_it_leaves_no_export_and_says_how_to_go_on(
    number: signal.Signals,
    code: int,
    environment: dict[str, str],
    people: Run,
    image: Path,
    disk: Path,
    daemon: Daemon,
) -> None:
    with _stalled(image, disk, environment) as process:
        process.send_signal(number)
        assert process.wait(60) == code
        assert process.stderr is not None
        assert b"incomplete" in process.stderr.read()
    eventually(lambda: all(export["state"] == "closed" for export in daemon.exports()))
    with disk.open("rb") as file:
        assert not file.read(MIB).strip(b"\0")
    assert people("deploy", str(image), f"local:{disk.name}").returncode == 0
    assert images.same(image, disk)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_before_anything_was_written_it_calls_no_target_incomplete(
    number: signal.Signals, environment: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "cloudmanager", "deploy", "-", str(tmp_path / "disk"), "--json"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["phase"] == "checking"
        process.send_signal(number)
        last = json.loads(process.stdout.readlines()[-1])
    assert process.returncode == 128 + number
    assert (last["event"], last["is_resumable"]) == ("failed", False)


def test_after_a_kill_the_same_command_goes_on_with_its_own_claim(
    environment: dict[str, str], people: Run, image: Path, disk: Path, daemon: Daemon
) -> None:
    def of_disk() -> list[dict[str, object]]:
        return [each for each in daemon.exports() if each["disk"] == f"local:{disk.name}"]

    with _stalled(image, disk, environment) as process:
        process.kill()
    (left,) = of_disk()
    assert left["state"] == "ready"
    answer = people("deploy", str(image), f"local:{disk.name}", "--verify")
    assert answer.returncode == 0, answer.stderr
    assert images.same(image, disk)
    eventually(lambda: [(each["id"], each["state"]) for each in of_disk()] == [(left["id"], "closed")])


def test_a_claim_that_is_over_is_made_anew(
    environment: dict[str, str], people: Run, image: Path, disk: Path, daemon: Daemon
) -> None:
    with _stalled(image, disk, environment) as process:
        process.kill()
    (export,) = [each for each in daemon.exports() if each["disk"] == f"local:{disk.name}"]
    daemon.release(str(export["id"]))
    answer = people("deploy", str(image), f"local:{disk.name}")
    assert answer.returncode == 0, answer.stderr
    assert images.same(image, disk)


def test_a_claim_of_a_command_that_runs_is_not_taken_over(
    environment: dict[str, str], people: Run, image: Path, disk: Path
) -> None:
    with _stalled(image, disk, environment) as process:
        answer = people("deploy", str(image), f"local:{disk.name}")
        process.terminate()
    assert answer.returncode == 1
    assert "in use" in answer.stderr or "read-write" in answer.stderr


def test_it_ends_when_its_export_is_ended_by_somebody_else(
    environment: dict[str, str], image: Path, disk: Path, daemon: Daemon
) -> None:
    with _stalled(image, disk, environment) as process:
        (export,) = [each for each in daemon.exports() if each["disk"] == f"local:{disk.name}"]
        daemon.release(str(export["id"]))
        assert process.wait(60) == 1
        assert process.stderr is not None
        assert b"ended by somebody else" in process.stderr.read()


def test_a_key_file_in_the_address_opens_an_export(people: Run, image: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "keys.psk").write_text(f"worker:{'5a' * 32}\n")
    (keys / "dh-params.pem").write_bytes(DH.read_bytes())
    target = tmp_path / "disk"
    with target.open("wb") as file:
        file.truncate(SIZE)
    tls = ("--object", f"tls-creds-psk,id=tls,endpoint=server,dir={keys}", "--tls-creds", "tls")
    with serving(target, "--shared=8", *tls) as server:
        uri = f"nbds+unix://worker@/disk?socket={server.socket}&tls-psk-file={keys / 'keys.psk'}"
        answer = people("deploy", str(image), uri)
    assert answer.returncode == 0, answer.stderr
    assert images.same(image, target)
