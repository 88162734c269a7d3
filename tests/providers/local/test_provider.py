"""The provider as the core has it: through the entry point, with its settings, and with the doctor."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from cloudmanager.core.errors import ConfigurationError
from cloudmanager.core.model import Access, Finding, NotAttached, Severity
from cloudmanager.core.plugins import Plugins
from cloudmanager.providers.local import LocalProvider
from cloudmanager.providers.local.roots import Roots
from cloudmanager.providers.local.settings import LocalSettings
from tests.providers.local.conftest import disk_id


def test_the_entry_point_offers_it_and_its_settings_are_checked(directory: Path, raw: Path) -> None:
    plugins = Plugins()
    plugins.configure({"here": {"type": "local", "images": [str(directory)]}})
    disk = plugins["here"].describe(disk_id(raw.name))
    assert not isinstance(plugins["here"].locate(disk), NotAttached)
    with pytest.raises(ConfigurationError, match="'images'"):
        Plugins().configure({"here": {"type": "local", "image": []}})
    with pytest.raises(ConfigurationError, match="absolute"):
        Plugins().configure({"here": {"type": "local", "images": ["srv/images"]}})


def test_every_setting_is_described() -> None:
    assert all(field.description for field in LocalSettings.model_fields.values())


def test_its_disks_are_always_attached_already(provider: LocalProvider, raw: Path) -> None:
    disk = provider.describe(disk_id(raw.name))
    plan = provider.plan_attach(disk, Access.READ_ONLY)
    attachment = provider.attach(plan)
    assert plan.is_present
    assert (attachment.disk, attachment.request_id) == (disk, plan.request_id)
    assert plan.request_id != provider.plan_attach(disk, Access.READ_ONLY).request_id
    provider.detach(attachment)
    assert provider.locate(disk).path == str(raw)


def test_the_node_is_this_machine(provider: LocalProvider) -> None:
    assert provider.node().name == socket.gethostname()


def findings(
    *images: Path, allow: tuple[Path, ...] = (), devices: bool = False, roots: Roots | None = None
) -> dict[str, Finding]:
    settings = LocalSettings(images=images, allow_backing_from=allow, devices=devices)
    return {finding.subject: finding for finding in LocalProvider("local", settings, roots).diagnose()}


def test_the_doctor_finds_a_working_provider_well(directory: Path) -> None:
    found = findings(directory, allow=(directory,), devices=True)
    assert {finding.severity for finding in found.values()} == {Severity.OK}


def test_the_doctor_names_what_is_missing_and_what_to_do(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    found = findings(missing, allow=(missing,), devices=True, roots=Roots(sys=missing, machine_id=missing))
    bad = {subject: finding for subject, finding in found.items() if finding.severity is not Severity.OK}
    assert set(bad) == {f"image directory {missing}", f"backing directory {missing}", "block devices", "machine id"}
    assert all(finding.advice for finding in bad.values())


def test_the_doctor_wonders_about_a_provider_without_disks() -> None:
    assert findings()["disks"].severity is Severity.WARNING


def test_the_doctor_sees_device_nodes_that_cannot_be_read(tmp_path: Path) -> None:
    found = findings(devices=True, roots=Roots(dev=tmp_path))
    assert "vda" in found["device nodes"].seen
