"""docs/writing-providers.md: complete, and what it shows is what was tested."""

import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cloudmanager.core import errors, hookspecs
from cloudmanager.testing.cloud.faults import Effect
from cloudmanager.testing.conformance import Harness, ProviderConformance
from tests.checkout import ROOT
from tests.examples.package import Installed, install
from tests.ports import free_port

DOCS = ROOT / "docs"
PAGE = DOCS / "writing-providers.md"
TEXT = PAGE.read_text()
FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"(<!-- file: \S+ -->\n)?^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
CHECK = re.compile(r"^\| [\d ]*\| `(test_\w+)` \|", re.MULTILINE)
SHELL = [body for _, language, body in BLOCK.findall(TEXT) if language == "sh"]

USE = """
from pathlib import Path
from cloudmanager import Access
from cloudmanager.core import settings
from cloudmanager.core.wiring import open_manager
from cloudmanager.core.plugins import Plugins
import subprocess, time

loaded = settings.load(Path("cloudmanager.toml"))
plugins = Plugins()
plugins.configure(loaded.providers)
manager = open_manager(loaded, plugins)
manager.start()
export = manager.wait(manager.export("cold:case.raw", Access.SCRATCH, "me").id, 20)
subprocess.run(["nbdcopy", export.uri, "read.raw"], check=True)
manager.release(export.id)
while manager.attachments():
    time.sleep(0.02)
manager.close()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    directory = tmp_path_factory.mktemp("archive-plugin") / "package"
    return install(Path(shutil.copytree(DOCS / "examples" / "cloudmanager-archive", directory)))


def test_the_provider_that_it_shows_works_with_no_change_here(installed: Installed) -> None:
    for name in ("archive", "workspace"):
        (installed.directory / name).mkdir()
    content = os.urandom(1 << 20)
    (installed.directory / "archive" / "case.raw").write_bytes(content)
    environment = {
        **os.environ,
        **installed.environment,
        "CLOUDMANAGER_SERVER__STATE_DIR": str(installed.directory / "state"),
        "CLOUDMANAGER_NBD__PORTS": "22000-22099",
        "CLOUDMANAGER_EXPORTS__DRAIN_SECONDS": "0",
    }
    command = [sys.executable, "-P", "-c", USE]
    subprocess.run(command, check=True, cwd=installed.directory, env=environment, timeout=60)
    assert (installed.directory / "read.raw").read_bytes() == content
    assert list((installed.directory / "workspace").iterdir()) == []


def test_every_file_that_it_shows_is_the_one_that_is_tested() -> None:
    shown = FILE.findall(TEXT)
    assert len(shown) >= 7
    for path, content in shown:
        assert content == (DOCS / path).read_text(), f"copy docs/{path} into {PAGE.name} again"


def test_no_other_code_is_shown() -> None:
    """Python and TOML come from files, and the shell's blocks are run below."""
    untested = [body for file, language, body in BLOCK.findall(TEXT) if not file and language != "sh"]
    assert untested == []
    assert len(SHELL) == 3


@pytest.mark.slow
def test_the_first_commands_write_install_and_certify_a_package(tmp_path: Path) -> None:
    """Into a directory of the test's own, and without a download: what is needed is installed."""
    site = tmp_path / "site"
    environment = _shell_environment() | {
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_TARGET": str(site),
        "PYTHONPATH": str(site),
    }
    output = _run(SHELL[0], tmp_path, environment)
    assert re.search(r"\d+ passed", output)
    assert "failed" not in output


def test_the_commands_for_the_emulator_work_as_they_stand(tmp_path: Path) -> None:
    port = str(free_port())
    output = _run("\n".join(SHELL[1:]).replace("8700", port), tmp_path, _shell_environment())
    assert "provider   ec2, of type aws" in output
    assert '"effect": "throttle"' in output


def _shell_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDMANAGER_")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def _run(script: str, directory: Path, environment: dict[str, str]) -> str:
    answer = subprocess.run(
        ["bash", "-euc", script],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def test_every_hook_is_documented() -> None:
    for spec in (hookspecs.PluginSpec, hookspecs.ProviderSpec):
        for name in hookspecs.hook_names(spec):
            assert f"`{name}(" in TEXT, name


def test_every_check_of_the_suite_is_documented_and_no_other() -> None:
    checks = {name for name, _ in inspect.getmembers(ProviderConformance, inspect.isfunction) if name[:5] == "test_"}
    listed = CHECK.findall(TEXT)
    assert len(listed) == len(set(listed))
    assert [name for name in checks if f"`{name}`" not in TEXT] == []
    assert set(listed) <= checks


def test_every_error_is_documented() -> None:
    found = [each for _, each in inspect.getmembers(errors, inspect.isclass) if each.__module__ == errors.__name__]
    for error in found:
        assert f"`{error.__name__}`" in TEXT, error.__name__


def test_whether_an_error_is_tried_again_is_told_as_it_is() -> None:
    for names, reported in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|.*\| (yes|no) \|$", TEXT, re.MULTILINE):
        for name in re.findall(r"\w+", names):
            assert getattr(errors, name).retriable is (reported == "yes"), name


def test_everything_that_a_harness_must_have_is_documented() -> None:
    needed = [name for name in vars(Harness) if not name.startswith("_") and name not in ("make_provider", "node_name")]
    for name in [*needed, "malformed_ids"]:
        assert re.search(rf"`{name}(\(\))?`", TEXT), name


def test_every_effect_of_a_fault_is_documented() -> None:
    for effect in Effect:
        assert f"`{effect}`" in TEXT
