"""The example of docs/writing-providers.md is built, installed and used, as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cloudmanager.core import hookspecs

PAGE = Path(__file__).parents[2] / "docs" / "writing-providers.md"
FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)

USE = """
import sys
from pathlib import Path
from cloudmanager import Access
from cloudmanager.core import settings
from cloudmanager.core.manager import Manager
from cloudmanager.core.plugins import Plugins
import subprocess

loaded = settings.load(Path("cloudmanager.toml"))
plugins = Plugins()
plugins.configure(loaded.providers)
assert "cloudmanager-archive" in {each.distribution for each in plugins.loaded}
manager = Manager.open(loaded, plugins)
manager.start()
export = manager.wait(manager.export("cold:case.raw", Access.SCRATCH, "me").id, 20)
subprocess.run(["nbdcopy", export.uri, "read.raw"], check=True)
manager.release(export.id)
while manager.attachments():
    pass
manager.close()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("archive-plugin")
    for name, content in FILE.findall(PAGE.read_text()):
        (directory / name).write_text(content)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, f"--target={directory}/site", "."], check=True, cwd=directory)
    return directory


def test_a_package_with_a_provider_works_with_no_change_here(installed: Path) -> None:
    (installed / "archive").mkdir()
    (installed / "workspace").mkdir()
    content = os.urandom(1 << 20)
    (installed / "archive" / "case.raw").write_bytes(content)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{installed}/site:{Path.cwd()}",
        "CLOUDMANAGER_SERVER__STATE_DIR": f"{installed}/state",
        "CLOUDMANAGER_NBD__PORTS": "22000-22099",
    }
    subprocess.run([sys.executable, "-c", USE], check=True, cwd=installed, env=environment, timeout=60)
    assert (installed / "read.raw").read_bytes() == content
    assert list((installed / "workspace").iterdir()) == []


def test_every_hook_is_documented() -> None:
    text = PAGE.read_text()
    for spec in (hookspecs.PluginSpec, hookspecs.ProviderSpec):
        for name in hookspecs.hook_names(spec):
            assert f"`{name}(" in text, name


def test_the_snippets_are_plugins_that_load() -> None:
    from cloudmanager.core.plugins import Plugins

    loaded = {}
    for code in PYTHON.findall(PAGE.read_text()):
        namespace: dict[str, object] = {"__name__": "snippet"}
        exec(compile(code, str(PAGE), "exec"), namespace)  # noqa: S102 - the page's own code
        plugin = type("Snippet", (), {})()
        for name in hookspecs.hook_names(hookspecs.PluginSpec) + hookspecs.hook_names(hookspecs.ProviderSpec):
            if name in namespace:
                setattr(plugin, name, namespace[name])
                loaded[name] = plugin
    assert set(loaded) == {"register_providers", "attach", "authorize"}
    Plugins(list(loaded.items()))
