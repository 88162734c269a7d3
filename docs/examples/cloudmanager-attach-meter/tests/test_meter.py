"""The meter around real attaches of a provider that is installed beside it."""

import json
from pathlib import Path

import pytest
from cloudmanager import Access, DiskId, errors, hookimpl
from cloudmanager.core.plugins import Plugins
from cloudmanager.providers import local
from cloudmanager.providers.local import LocalProvider

import cloudmanager_attach_meter


class FullMachine(LocalProvider):
    """Takes no disk."""

    @hookimpl
    def attach(self, plan):
        raise errors.AttachLimit("This machine has all the disks that it can have.")


class Full:
    @hookimpl
    def register_providers(self):
        return [type("Full", (FullMachine,), {"type": "full"})]


@pytest.fixture
def attach(tmp_path: Path):
    """Attaches a disk of the provider of that type."""
    (tmp_path / "case.raw").write_bytes(bytes(4096))

    def attach(kind: str):
        plugins = Plugins([("local", local), ("full", Full()), ("attach-meter", cloudmanager_attach_meter)])
        plugins.configure({"disks": {"type": kind, "images": [str(tmp_path)]}})
        provider = plugins["disks"]
        return provider.attach(provider.plan_attach(provider.describe(DiskId("disks", "case.raw")), Access.READ_ONLY))

    return attach


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "meter.jsonl"
    monkeypatch.setenv(cloudmanager_attach_meter.VARIABLE, str(file))
    return lambda: [json.loads(line) for line in file.read_text().splitlines()]


def test_an_attach_is_metered_and_its_answer_passed_on(attach, lines):
    attachment = attach("local")
    (line,) = lines()
    assert (line["provider"], line["outcome"], line["bytes"]) == ("disks", "attached", 4096)
    assert line["disk"] == attachment.disk.canonical_id


def test_an_attach_that_fails_is_metered_and_goes_on_failing(attach, lines):
    with pytest.raises(errors.AttachLimit):
        attach("full")
    assert [line["outcome"] for line in lines()] == ["attach_limit"]


def test_a_meter_that_cannot_write_stops_no_attach(attach, monkeypatch, tmp_path):
    monkeypatch.setenv(cloudmanager_attach_meter.VARIABLE, str(tmp_path / "no such directory" / "meter.jsonl"))
    assert attach("local").disk.size_bytes == 4096
