"""What must not happen on the side: imports, leaks, threads."""

import logging
import subprocess
import sys
import threading

import pytest

from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.plugins import Plugins, Provider
from cloudmanager.testing.cloud.azure import AzureEmulation
from cloudmanager.testing.cloud.azure.emulation import ATTACH
from cloudmanager.testing.cloud.faults import Effect, Fault
from tests.providers.azure.clients import attach, describe

IMPORTS_NOTHING = """
import sys
import cloudmanager.providers.azure
loaded = sorted(name for name in sys.modules if name.partition(".")[0] in ("azure", "msal", "requests"))
print(loaded)
"""
WITHOUT_SDK = """
import sys
for name in ("azure", "azure.mgmt", "azure.mgmt.compute", "azure.identity", "azure.core"):
    sys.modules[name] = None
from cloudmanager.core.errors import MissingExtra
from cloudmanager.core.plugins import Plugins
import cloudmanager.providers.azure as plugin
plugins = Plugins([("azure", plugin)])
try:
    plugins.configure({"prod": {"type": "azure"}})
except MissingExtra as error:
    print(error.detail)
try:
    import cloudmanager.testing.cloud.azure
except MissingExtra as error:
    print(error.detail)
"""


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout


def test_the_plugin_imports_no_sdk() -> None:
    assert run(IMPORTS_NOTHING) == "[]\n"


def test_a_missing_sdk_is_told_with_the_command_that_installs_it() -> None:
    assert run(WITHOUT_SDK).count("pip install 'cloudmanager[azure]'") == 2


def test_the_plugin_is_found_by_its_entry_point() -> None:
    assert "azure" in Plugins().provider_types


def test_no_token_is_logged_or_part_of_an_error(
    cloud: AzureEmulation, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    tokens: list[str] = []
    issue = cloud.accounts.issue
    cloud.accounts.issue = lambda identity: tokens.append(issue(identity)) or tokens[-1]  # type: ignore[func-returns-value, method-assign]
    cloud.make_disk("evidence-7")
    provider.detach(attach(provider, "evidence-7"))
    cloud.accounts.revoke_all()
    with pytest.raises(CloudManagerError) as caught:
        describe(provider, "evidence-7")
    assert tokens
    shown = caplog.text + str(caught.value) + repr(caught.value.__cause__)
    assert not [token for token in tokens if token in shown]


def test_no_thread_is_left_waiting_for_azure(cloud: AzureEmulation, provider: Provider) -> None:
    cloud.make_disk("evidence-7")
    cloud.faults.add(Fault(f"{ATTACH}/attach", Effect.HANG))
    with pytest.raises(CloudManagerError):
        attach(provider, "evidence-7")
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("LROPoller")]
