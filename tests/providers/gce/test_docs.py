"""docs/providers/gce.md is true: its roles suffice and are needed, its settings are all there are."""

import re
import tomllib

import pytest

from cloudmanager.core.errors import AccessDenied
from cloudmanager.core.model import Access, DiskId, Query, Severity
from cloudmanager.core.plugins import Plugins, Provider
from cloudmanager.providers import gce
from cloudmanager.providers.gce.settings import GceSettings
from tests.checkout import ROOT
from tests.providers.gce.harness import GceHarness

PAGE = (ROOT / "docs/providers/gce.md").read_text(encoding="utf-8")


def permissions(name: str) -> frozenset[str]:
    """What a role of the page includes."""
    match = re.search(rf"<!-- role: {name} -->\n```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert match
    return frozenset(re.findall(r"^- (\S+)$", match[1], re.MULTILINE))


def use_disks(harness: GceHarness, provider: Provider) -> None:
    provider.find(Query())
    use_the_doctor(harness, provider)
    for access in (Access.READ_ONLY, Access.READ_WRITE):
        disk = provider.describe(DiskId(provider.name, harness.make_disk()))
        attachment = provider.attach(provider.plan_attach(disk, access))
        provider.locate(disk)
        provider.detach(attachment)
        provider.detach(attachment)


def use_copies(harness: GceHarness, provider: Provider) -> None:
    disk = provider.describe(DiskId(provider.name, harness.make_disk()))
    snapshot = provider.snapshot(disk, "case-42")
    copy = provider.restore(snapshot, "copy")
    provider.delete(copy)
    provider.delete(snapshot)


def use_the_doctor(harness: GceHarness, provider: Provider) -> None:
    for finding in provider.diagnose():
        if finding.severity is not Severity.OK:
            raise AccessDenied(f"{finding.seen} {finding.advice}")


USES = {"disks": use_disks, "copies": use_copies}


@pytest.mark.parametrize("name", USES)
def test_a_role_of_the_page_suffices(harness: GceHarness, name: str) -> None:
    harness.cloud.granted = permissions(name)
    USES[name](harness, harness.make_provider())


@pytest.mark.parametrize(("name", "permission"), [(name, each) for name in USES for each in sorted(permissions(name))])
def test_every_permission_of_a_role_is_needed(harness: GceHarness, name: str, permission: str) -> None:
    harness.cloud.granted = permissions(name) - {permission}
    with pytest.raises(AccessDenied, match=re.escape(f"'{permission}'")):
        USES[name](harness, harness.make_provider())


def test_every_setting_is_in_the_table() -> None:
    table = PAGE.partition("## Settings")[2].partition("\n## ")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert documented == set(GceSettings.model_fields)


@pytest.mark.parametrize("example", re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
def test_the_examples_are_valid(example: str) -> None:
    Plugins([("gce", gce)]).configure(tomllib.loads(example)["providers"])
