"""docs/providers/azure.md is true: its roles suffice and are needed, its settings are all there are."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cloudmanager.core.errors import AccessDenied
from cloudmanager.core.model import Query, Severity
from cloudmanager.core.plugins import Plugins, Provider
from cloudmanager.providers import azure
from cloudmanager.providers.azure.settings import AzureSettings
from cloudmanager.testing.cloud.azure import AzureEmulation
from tests.providers.azure.clients import attach, describe, make_provider

PAGE = Path("docs/providers/azure.md").read_text(encoding="utf-8")


def role(name: str) -> dict[str, Any]:
    match = re.search(rf"<!-- role: {name} -->\n```json\n(.*?)```", PAGE, re.DOTALL)
    assert match is not None
    return dict(json.loads(match[1]))


def use(provider: Provider) -> None:
    """All that the first role is for."""
    assert provider.find(Query()).items
    attachment = attach(provider, "evidence-7")
    provider.locate(attachment.disk)
    provider.detach(attachment)
    assert {finding.severity for finding in provider.diagnose()} == {Severity.OK}


def copy(provider: Provider) -> None:
    """All that the second role is for."""
    snapshot = provider.snapshot(describe(provider, "evidence-7"), "snap-1")
    provider.delete(provider.restore(snapshot, "restored-1"))
    provider.delete(snapshot)


@pytest.fixture
def stocked(cloud: AzureEmulation, identity: None) -> Provider:
    cloud.make_disk("evidence-7", size_bytes=512)
    return make_provider(cloud)


@pytest.mark.parametrize(("name", "purpose"), [("disks", use), ("copies", copy)])
def test_a_role_suffices_for_its_purpose(cloud: AzureEmulation, stocked: Provider, name: str, purpose: Any) -> None:
    cloud.identities["worker-1"].actions = tuple(role(name)["Actions"])
    purpose(stocked)


@pytest.mark.parametrize(
    ("name", "purpose", "action"),
    [
        (name, purpose, action)
        for name, purpose in (("disks", use), ("copies", copy))
        for action in role(name)["Actions"]
    ],
    ids=lambda value: value.rpartition("Compute/")[2] if isinstance(value, str) else "",
)
def test_every_action_of_a_role_is_needed(
    cloud: AzureEmulation, stocked: Provider, name: str, purpose: Any, action: str
) -> None:
    cloud.identities["worker-1"].actions = tuple(set(role(name)["Actions"]) - {action})
    with pytest.raises((AccessDenied, AssertionError)):
        purpose(stocked)


@pytest.mark.parametrize("name", ["disks", "copies"])
def test_a_role_has_the_form_that_azure_takes(name: str) -> None:
    found = role(name)
    assert set(found) == {
        *("Name", "IsCustom", "Description", "AssignableScopes"),
        *("Actions", "NotActions", "DataActions", "NotDataActions"),
    }
    assert found["Actions"] == sorted(found["Actions"])
    assert not any("*" in action for action in found["Actions"])


def test_every_setting_is_documented_and_no_other() -> None:
    table = PAGE.split("## Settings")[1].split("##")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(AzureSettings.model_fields)


@pytest.mark.parametrize("example", re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
def test_the_examples_are_valid(example: str) -> None:
    Plugins([("azure", azure)]).configure(tomllib.loads(example)["providers"])
