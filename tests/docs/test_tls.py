"""The page on TLS: its recipe makes certificates that a service and its clients use, and takes one back."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager.client import CloudManager
from tests.checkout import ROOT
from tests.client.daemon import Daemon
from tests.docs.test_pages import blocks

PAGE = ROOT / "docs" / "tls.md"
AUTHORITY, MAKING, REVOKING, COPYING, KERNEL = blocks(PAGE, "sh")
HOST = "cloudmanager.example"


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """As the page makes them, but for a server on loopback."""
    making = MAKING.replace("IP:10.0.0.7", "IP:10.0.0.7,IP:127.0.0.1").replace(
        f"DNS:{HOST}", f"DNS:{HOST},DNS:localhost"
    )
    shell(f"{AUTHORITY}\n{making}", tmp_path)
    return tmp_path


@pytest.fixture
def daemon(certificates: Path) -> Iterator[Daemon]:
    (shown,) = blocks(PAGE, "toml")
    nbd = {name: value for name, value in tomllib.loads(shown)["nbd"].items() if name not in ("listen", "advertise")}
    assert nbd["tls_certificates"] == "/etc/cloudmanager/tls"
    daemon = Daemon(certificates, nbd={**nbd, "tls_certificates": str(certificates / "disks")})
    daemon.image("a.img")
    daemon.started()
    yield daemon
    daemon.end()


def shell(script: str, directory: Path) -> str:
    done = subprocess.run(["bash", "-euc", script], cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_worker_with_the_certificates_reads_until_they_are_taken_back(daemon: Daemon, certificates: Path) -> None:
    expected = (daemon.images / "a.img").read_bytes()
    with CloudManager(daemon.url, certificates=certificates / "worker-1").export("local:a.img") as disk:
        assert disk.export.tls == "x509"
        with disk.file() as file:
            assert file.path.read_bytes() == expected
        shell(_at(COPYING, disk.uri), certificates)
        assert (certificates / "copy.raw").read_bytes() == expected
    shell(REVOKING, certificates)
    with CloudManager(daemon.url).export("local:a.img") as disk:
        with pytest.raises(AssertionError, match=r"nbdcopy: .*(TLS|reset|closed|certificate)"):
            shell(_at(COPYING, disk.uri), certificates)


def test_a_tool_is_run_with_the_certificates_of_the_environment(daemon: Daemon, certificates: Path) -> None:
    environment = {
        **os.environ,
        "CLOUDMANAGER_URL": daemon.url,
        "CLOUDMANAGER_CERTIFICATES": str(certificates / "worker-1"),
        "CLOUDMANAGER_RUN_DIR": str(certificates / "run"),
    }

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "cloudmanager", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout

    expected = (daemon.images / "a.img").read_bytes()
    digest = run("run", "local:a.img", "--", "sha256sum", "{file}").split()[0]
    assert digest == hashlib.sha256(expected).hexdigest()
    assert run("run", "local:a.img", "--", "nbdinfo", "--size", "{uri}") == f"{len(expected)}\n"
    run("deploy", "local:a.img", str(certificates / "deployed.raw"))
    assert (certificates / "deployed.raw").read_bytes() == expected


def test_the_kernels_client_is_let_in_with_them(daemon: Daemon, certificates: Path) -> None:
    """Without a kernel that has NBD devices it lists what is served, with the same options."""
    with CloudManager(daemon.url).export("local:a.img") as disk:
        port, name = re.findall(r":(\d+)/(\w+)$", disk.uri)[0]
        command = KERNEL.replace(HOST, "localhost").replace("10900", port)
        listing = command.replace("/dev/nbd0 -name NAME", "").replace(
            "nbd-client", "PATH=$PATH:/usr/sbin nbd-client -l", 1
        )
        assert name in shell(listing, certificates)
        refused = listing.replace("-certfile worker-1/client-cert.pem -keyfile worker-1/client-key.pem", "")
        with pytest.raises(AssertionError):
            shell(refused, certificates)


def _at(script: str, uri: str) -> str:
    """The page's command, for an address that is served here."""
    return script.replace(f"nbds://{HOST}:10900/NAME", uri)
