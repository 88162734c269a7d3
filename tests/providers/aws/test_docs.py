"""docs/providers/aws.md is true: its policies suffice and are needed, its settings are all there are."""

import json
import re
import tomllib
from typing import Any

import pytest

from cloudmanager.core.errors import AccessDenied
from cloudmanager.core.model import Query
from cloudmanager.core.plugins import Plugins, Provider
from cloudmanager.providers import aws
from cloudmanager.providers.aws.settings import AwsSettings
from cloudmanager.testing.cloud.ec2 import Emulation
from tests.checkout import ROOT
from tests.providers.aws.clients import attach, describe

PAGE = (ROOT / "docs/providers/aws.md").read_text(encoding="utf-8")


def actions(name: str) -> set[str]:
    """The actions that a policy of the page allows."""
    statements = policy(name)["Statement"]
    return {action.removeprefix("ec2:") for statement in statements for action in statement["Action"]}


def policy(name: str) -> dict[str, Any]:
    """A policy of the page."""
    match = re.search(rf"<!-- policy: {name} -->\n```json\n(.*?)```", PAGE, re.DOTALL)
    assert match
    document: dict[str, Any] = json.loads(match[1])
    return document


def use_disks(cloud: Emulation, provider: Provider) -> None:
    volume = cloud.make_disk("evidence-7")
    provider.find(Query())
    attachment = attach(provider, volume)
    provider.locate(attachment.disk)
    provider.detach(attachment)


def use_copies(cloud: Emulation, provider: Provider) -> None:
    snapshot = provider.snapshot(describe(provider, cloud.make_disk("evidence-7")), "case-42")
    copy = provider.restore(snapshot, "copy")
    provider.delete(copy)
    provider.delete(snapshot)


USES = {"disks": use_disks, "copies": use_copies}
USEFUL = {"DescribeInstanceTypes"}
"""What works without them, with less: tests/providers/aws/test_provider_machine.py."""


@pytest.mark.parametrize("name", USES)
def test_a_policy_of_the_page_suffices(cloud: Emulation, provider: Provider, name: str) -> None:
    cloud.policies = [policy(name)]
    USES[name](cloud, provider)


@pytest.mark.parametrize(
    ("name", "action"), [(name, action) for name in USES for action in sorted(actions(name) - USEFUL)]
)
def test_every_action_of_a_policy_is_needed(cloud: Emulation, provider: Provider, name: str, action: str) -> None:
    cloud.denied = {action}
    with pytest.raises(AccessDenied):
        USES[name](cloud, provider)


def test_every_setting_is_in_the_table() -> None:
    table = PAGE.partition("## Settings")[2].partition("\n## ")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert documented == set(AwsSettings.model_fields)


def test_defaults_are_those_of_the_code() -> None:
    for name, default in (("stuck_seconds", "90"), ("volume_type", '`"gp3"`'), ("pci_vendor", '`"0x1d0f"`')):
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}`"))
        assert row.split("|")[-2].strip() == default
        assert str(AwsSettings.model_fields[name].default) == default.strip('`"')


@pytest.mark.parametrize("example", re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
def test_the_examples_are_valid(example: str) -> None:
    Plugins([("aws", aws)]).configure(tomllib.loads(example)["providers"])


@pytest.mark.parametrize("document", re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
def test_the_policies_have_the_form_of_policies(document: str) -> None:
    policy = json.loads(document)
    assert (set(policy), policy["Version"]) == ({"Version", "Statement"}, "2012-10-17")
    assert all({"Sid", "Effect", "Action", "Resource"} <= set(statement) for statement in policy["Statement"])
