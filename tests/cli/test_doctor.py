"""`cloudmanager doctor` on this machine, as it is and with one thing broken at a time."""

import json
import os
import pty
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from cloudmanager.confined import filter as system_calls
from cloudmanager.confined import libseccomp
from cloudmanager.core.doctor.directories import check_directories
from cloudmanager.core.doctor.machine import check_privileges
from cloudmanager.core.doctor.network import check_network
from cloudmanager.core.doctor.openfiles import check_open_files
from cloudmanager.core.doctor.qemu import check_qemu
from cloudmanager.core.doctor.sandbox import check_sandbox
from cloudmanager.core.doctor.store import check_store
from cloudmanager.core.model import Finding, Severity
from cloudmanager.core.settings import Settings, from_tables
from tests.api.process import process
from tests.api.service import settings_for
from tests.cli.conftest import CommandLine
from tests.ports import free_port

OK, WARNING, PROBLEM = Severity.OK, Severity.WARNING, Severity.PROBLEM


def _by_subject(findings: Iterable[Finding]) -> dict[str, Finding]:
    found = {finding.subject: finding for finding in findings}
    for finding in found.values():
        assert finding.severity is OK or finding.advice, f"{finding} says not what to do"
    return found


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory before all others on PATH, for a tool that is broken."""
    directory = tmp_path / "tools"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


def _tool(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


# QEMU


def test_a_qemu_that_is_whole_has_every_format(tools: Path) -> None:
    found = _by_subject(check_qemu(from_tables({})))
    assert {finding.severity for finding in found.values()} == {OK}
    assert found["image formats"].seen == "raw, qcow2, vmdk, vdi, vpc, vhdx, parallels, dmg"


def test_a_missing_qemu_is_a_problem_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = _by_subject(check_qemu(from_tables({})))
    assert found["qemu-nbd"].severity is found["qemu-img"].severity is PROBLEM
    assert "apt-get install qemu-utils" in found["qemu-nbd"].advice
    assert "image formats" not in found


def test_formats_that_a_build_lacks_are_found_though_its_help_might_list_them(tools: Path) -> None:
    _tool(tools, "qemu-nbd", f'exec {shutil.which("qemu-nbd")} "${{@/driver=vhdx/driver=left-out}}"')
    formats = _by_subject(check_qemu(from_tables({})))["image formats"]
    assert formats.severity is WARNING
    assert formats.seen == "raw, qcow2, vmdk, vdi, vpc, parallels, dmg; not vhdx"


def test_an_old_qemu_is_a_warning(tools: Path) -> None:
    _tool(tools, "qemu-nbd", "echo 'qemu-nbd 4.2.1 (Debian 1:4.2-3ubuntu6)'")
    assert _by_subject(check_qemu(from_tables({})))["qemu-nbd"].severity is WARNING


def test_a_qemu_that_does_not_run_is_a_problem(tools: Path) -> None:
    _tool(tools, "qemu-nbd", "exit 127")
    assert _by_subject(check_qemu(from_tables({})))["qemu-nbd"].severity is PROBLEM


# The sandbox


def test_a_sandbox_that_works_gives_its_descriptors_back(tools: Path) -> None:
    found = _by_subject(check_sandbox(from_tables({})))
    assert found["bubblewrap"].severity is OK
    assert "gives its descriptors back" in found["bubblewrap"].seen


def test_a_missing_sandbox_is_a_problem_with_both_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = _by_subject(check_sandbox(from_tables({})))["bubblewrap"]
    assert finding.severity is PROBLEM
    assert "apt-get install bubblewrap" in finding.advice
    assert 'sandbox = "none"' in finding.advice


def test_a_sandbox_that_is_denied_its_namespaces_is_a_problem_in_its_own_words(tools: Path) -> None:
    """Run as a user who is not root in a user namespace without any below it."""
    _tool(tools, "bwrap", f'echo 0 > /proc/sys/user/max_user_namespaces && exec {shutil.which("bwrap")} --uid 1 "$@"')
    command = [
        "unshare", "--user", "--map-root-user", sys.executable, "-c",
        "from cloudmanager.core.doctor.sandbox import check_sandbox\n"
        "from cloudmanager.core.settings import from_tables\n"
        "[print(finding.severity, finding.seen) for finding in check_sandbox(from_tables({}))]",
    ]  # fmt: skip
    seen = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert seen.startswith("problem")
    assert "cannot confine a process: bwrap: " in seen


def test_a_sandbox_switched_off_is_a_warning() -> None:
    found = _by_subject(check_sandbox(from_tables({"nbd": {"sandbox": "none"}})))
    assert found["bubblewrap"].severity is WARNING
    assert found["holding servers"].severity is OK


@pytest.fixture
def no_libseccomp(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine without the package."""
    caches = (system_calls.allow_list, system_calls.hold_only, libseccomp._library)
    for cached in caches:
        cached.cache_clear()
    monkeypatch.setattr(libseccomp, "_LIBRARY", "libseccomp-not-here.so.2")
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.usefixtures("no_libseccomp")
@pytest.mark.parametrize(("sandbox", "subject"), [("bubblewrap", "bubblewrap"), ("none", "holding servers")])
def test_without_filters_of_system_calls_the_package_is_named(sandbox: str, subject: str) -> None:
    found = _by_subject(check_sandbox(from_tables({"nbd": {"sandbox": sandbox}})))[subject]
    assert found.severity is PROBLEM
    assert "install the package libseccomp2" in found.advice


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_how_devices_are_guarded_is_said() -> None:
    assert "a node of its own" in _by_subject(check_sandbox(from_tables({})))["device nodes"].seen
    program = (
        "from cloudmanager.core.doctor.sandbox import check_sandbox\n"
        "from cloudmanager.core.settings import from_tables\n"
        "print(*(f'{finding.subject}: {finding.seen} {finding.advice}' for finding in check_sandbox(from_tables({}))))"
    )
    command = ["setpriv", "--bounding-set=-mknod", "--inh-caps=-mknod", sys.executable, "-c", program]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "device nodes: no nodes can be made" in output
    assert "A scratch export of a device that the service's user may write is refused" in output


# Directories


def _directories(state_dir: Path, **exports: int) -> dict[str, Finding]:
    return _by_subject(check_directories(from_tables({"server": {"state_dir": state_dir}, "exports": exports})))


def test_a_state_directory_that_can_be_made_is_fine_and_is_not_made(tmp_path: Path) -> None:
    found = _directories(tmp_path / "a" / "b")
    assert {finding.severity for finding in found.values()} == {OK}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["/proc/cloudmanager", "file/state"])
def test_a_state_directory_that_cannot_be_made_is_a_problem(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    assert _directories(tmp_path / name)["state directory"].severity is PROBLEM


def test_less_space_than_a_scratch_export_may_take_is_a_warning(tmp_path: Path) -> None:
    assert _directories(tmp_path, scratch_limit_bytes=2**60)["free space"].severity is WARNING


# Addresses and ports


def _network(**tables: dict[str, object]) -> dict[str, Finding]:
    return _by_subject(check_network(from_tables(tables)))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_an_http_port_in_use_is_a_warning_because_the_service_may_run(listener: socket.socket) -> None:
    finding = _network(server={"listen": f"127.0.0.1:{listener.getsockname()[1]}"})["HTTP address"]
    assert (finding.severity, "in use" in finding.seen) == (WARNING, True)


def test_a_foreign_address_is_a_problem() -> None:
    found = _network(
        server={"listen": "192.0.2.1:8600", "token_sha256": ["0" * 64]},
        nbd={"listen": "192.0.2.1", "insecure": True},
    )
    assert found["HTTP address"].severity is found["NBD address"].severity is PROBLEM
    assert "NBD ports" not in found


def test_a_unix_socket_needs_its_directory(tmp_path: Path) -> None:
    assert _network(server={"listen": f"unix:{tmp_path}/s"})["HTTP address"].severity is OK
    assert _network(server={"listen": f"unix:{tmp_path}/no/s"})["HTTP address"].severity is PROBLEM


def test_the_busy_port_is_named(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    finding = _network(nbd={"ports": f"{port - 9}-{port}"})["NBD ports"]
    assert finding.severity is WARNING
    assert str(port) in finding.seen.partition("in use")[2]


def test_a_range_without_a_free_port_is_a_problem(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    assert _network(nbd={"ports": f"{port}-{port}"})["NBD ports"].severity is PROBLEM


def test_ports_that_outgoing_connections_take_are_a_warning() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ranges = [f"{start}-{start + 3}" for start in range(first, first + 80, 4)]  # some of them are not in use now
    findings = [_network(nbd={"ports": ports})["NBD ports"] for ports in ranges]
    assert OK not in [finding.severity for finding in findings]
    assert any("outgoing connections" in finding.seen for finding in findings)


def test_clients_must_be_given_an_address_that_leads_somewhere() -> None:
    everywhere = {"listen": "0.0.0.0", "insecure": True}
    assert _network(nbd=everywhere)["address for clients"].severity is PROBLEM
    assert _network(nbd={"advertise": "no-such-host.invalid"})["address for clients"].severity is WARNING
    assert _network(nbd={**everywhere, "advertise": "127.0.0.1"})["address for clients"].severity is OK


@pytest.mark.parametrize(
    ("nbd", "output"),
    [
        ({"listen": "::1", "tls": "psk"}, "libnbd"),
        ({"listen": "::1", "tls": "off"}, ""),
        ({"listen": "::", "advertise": "::1", "tls": "psk"}, "libnbd"),
        ({"listen": "::1", "advertise": "localhost", "tls": "psk"}, ""),
        ({"listen": "::1", "advertise": "fe80::7%lo"}, "of one link"),
    ],
)
def test_an_ipv6_address_that_some_clients_cannot_use_is_a_warning(nbd: dict[str, object], output: str) -> None:
    finding = _network(nbd=nbd)["address for clients"]
    assert (finding.severity, output in finding.seen) == (WARNING if output else OK, True)


@pytest.mark.skipif(not shutil.which("nbdkit"), reason="needs nbdkit")
@pytest.mark.parametrize(("engine", "without"), [("auto", WARNING), ("nbdkit", PROBLEM), ("qemu-nbd", OK)])
def test_it_is_said_who_serves_disks_with_bad_sectors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: str, without: Severity
) -> None:
    settings = from_tables({"nbd": {"engine": engine}})
    finding = _by_subject(check_qemu(settings))["bad sectors"]
    assert (finding.severity, "by nbdkit" in finding.seen) == (OK, engine != "qemu-nbd")
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = _by_subject(check_qemu(settings))["bad sectors"]
    assert finding.severity is without
    assert ("apt-get install nbdkit" in (finding.advice or "")) == (engine != "qemu-nbd")


# Privileges


def test_too_few_open_files_for_the_port_range_are_a_warning() -> None:
    command = [
        "prlimit", "--nofile=256:256", sys.executable, "-c",
        "from cloudmanager.core.doctor.openfiles import check_open_files\n"
        "from cloudmanager.core.settings import from_tables\n"
        "[print(finding.subject, finding.severity, finding.advice) for finding in check_open_files(from_tables({}))]",
    ]  # fmt: skip
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert any(line.startswith("open files warning Raise the limit: LimitNOFILE=4128") for line in lines)


def test_the_limit_of_the_service_that_runs_counts_and_not_the_shells(tmp_path: Path) -> None:
    with process(tmp_path, files=1024) as started:
        started.address()
        settings = settings_for(tmp_path, nbd={"ports": "22000-22999"})
        (finding,) = check_open_files(settings)
    assert (finding.severity, f"process {started.popen.pid}" in finding.seen) == (WARNING, True)
    assert "1024 open files are enough for 224 of the 1000 exports" in finding.seen
    (finding,) = check_open_files(settings)
    assert "running" not in finding.seen


def test_the_limit_that_systemd_would_give_the_service_counts_before_the_shells(tools: Path, tmp_path: Path) -> None:
    _tool(tools, "systemctl", "echo LoadState=loaded; echo LimitNOFILE=300")
    (finding,) = check_open_files(settings_for(tmp_path))
    assert (finding.severity, finding.seen.startswith("cloudmanager.service: 300")) == (WARNING, True)
    _tool(tools, "systemctl", "echo LoadState=loaded; echo LimitNOFILE=infinity")
    assert check_one(settings_for(tmp_path)).severity is OK
    _tool(tools, "systemctl", "echo LoadState=not-found; echo LimitNOFILE=1")
    assert "started from here" in check_one(settings_for(tmp_path)).seen


def check_one(settings: Settings) -> Finding:
    (finding,) = check_open_files(settings)
    return finding


def test_the_user_is_judged_by_what_it_may_do() -> None:
    finding = check_privileges()
    assert (finding.severity is WARNING) == (os.geteuid() != 0 or "without" in finding.seen)


# The store


def test_a_database_that_answers_is_fine(postgres_url: str) -> None:
    assert _by_subject(check_store(from_tables({"store": {"url": f"{postgres_url}/postgres"}})))["store"].severity is OK


@pytest.mark.parametrize("url", ["postgresql+psycopg://u:secret@127.0.0.1:{port}/db", "no url", "nosuch://h/d"])
def test_a_database_that_cannot_be_used_is_a_problem_and_its_password_stays_hidden(url: str) -> None:
    url = url.format(port=free_port())
    finding = _by_subject(check_store(from_tables({"store": {"url": url}})))["store"]
    assert finding.severity is PROBLEM
    assert "secret" not in str(finding)


# The command


def _configure(cli: CommandLine, text: str = "") -> None:
    state_dir = cli.directory / "state"
    (cli.directory / "cloudmanager.toml").write_text(f'[server]\nstate_dir = "{state_dir}"\n{text}')


def _json(answer: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    return {finding["subject"]: finding for finding in json.loads(answer.stdout)["findings"]}


def test_a_machine_in_order_exits_with_0(cli: CommandLine) -> None:
    _configure(cli)
    answer = cli("doctor", "--json")
    assert answer.returncode == 0, answer.stdout
    assert _json(answer)["bubblewrap"]["severity"] == "ok"
    assert not (cli.directory / "state").exists()


def test_a_problem_exits_with_3_and_says_what_to_do_in_lines_that_a_script_can_search(
    cli: CommandLine, tmp_path: Path
) -> None:
    _configure(cli)
    answer = cli("doctor", env={"PATH": str(tmp_path), "COLUMNS": "30"})
    assert answer.returncode == 3
    assert "✗ qemu-nbd: not found on PATH\n    Install it: apt-get install qemu-utils\n" in answer.stdout
    assert "problems" in answer.stdout.splitlines()[-1]


def test_a_configuration_that_is_not_valid_is_a_problem_and_the_rest_is_looked_at(cli: CommandLine) -> None:
    (cli.directory / "cloudmanager.toml").write_text('[server]\nlissen = "x"\n')
    answer = cli("doctor", "--json")
    found = _json(answer)
    assert answer.returncode == 3
    assert "did you mean 'listen'" in found["configuration"]["seen"]
    assert found["qemu-nbd"]["severity"] == "ok"


def test_each_provider_says_who_this_machine_is_and_what_it_found(
    cli: CommandLine, third_party: dict[str, str]
) -> None:
    _configure(cli, '[providers.s]\ntype = "shelf"\nroom = "cellar"\n')
    answer = cli("doctor", "--json", env=third_party)
    assert _json(answer)["provider s"]["seen"] == "shelf: this machine is worker-7 in cellar"
    assert _json(answer)["the shelf's screws"]["advice"] == "Tighten them."
    assert answer.returncode == 0


def test_a_provider_that_fails_is_a_problem_in_its_own_words(cli: CommandLine, third_party: dict[str, str]) -> None:
    _configure(cli, '[providers.s]\ntype = "shelf"\nroom = "nowhere"\n')
    answer = cli("doctor", "--json", env=third_party)
    assert answer.returncode == 3
    assert _json(answer)["provider s"]["advice"] == "The key of the room does not fit; ask its keeper."


def test_colours_are_for_terminals_only(cli: CommandLine) -> None:
    _configure(cli)
    assert "\x1b" not in cli("doctor").stdout
    ours, terminal = pty.openpty()
    command = [sys.executable, "-m", "cloudmanager", "doctor", "--config", "cloudmanager.toml"]
    with subprocess.Popen(command, cwd=cli.directory, stdout=terminal, env={**os.environ, "TERM": "xterm"}) as process:
        os.close(terminal)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
        process.wait(timeout=60)
    os.close(ours)
    assert b"\x1b[32m" in shown


def _read(descriptor: int) -> bytes:
    """A terminal whose other side is gone answers EIO instead of an end."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""
