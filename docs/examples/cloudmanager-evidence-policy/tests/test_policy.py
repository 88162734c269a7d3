"""The policy in a running cloudmanager, with real disks: it holds whether or not the disk is attached already."""

import secrets
from pathlib import Path

import pytest
from cloudmanager import Access, errors
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.records import ExportFilter
from cloudmanager.core.settings import from_tables
from cloudmanager.core.wiring import open_manager


@pytest.fixture
def manager(tmp_path: Path):
    """Two providers of the images in two directories."""
    for name in ("evidence", "scraps"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "case.raw").write_bytes(bytes(1 << 20))
    first_port = 20000 + secrets.randbelow(20000)
    settings = from_tables(
        {
            "server": {"state_dir": str(tmp_path / "state")},
            "nbd": {"ports": f"{first_port}-{first_port + 20}"},
            "exports": {"drain_seconds": 0, "on_shutdown": "close"},
            "providers": {name: {"type": "local", "images": [str(tmp_path / name)]} for name in ("evidence", "scraps")},
        }
    )
    plugins = Plugins()  # whatever is installed, and so this policy
    plugins.configure(settings.providers)
    manager = open_manager(settings, plugins)
    manager.start()
    yield manager
    manager.shut_down(timeout=20)  # else what is exported would be served on, for the next service
    manager.close()


def ready(manager, disk: str, access: Access, holder: str = "case-7/anna"):
    export = manager.wait(manager.export(disk, access, holder).id, 20)
    assert export.state == "ready"
    return export


def test_evidence_is_not_written(manager):
    with pytest.raises(errors.Refused, match="never written"):
        manager.export("evidence:case.raw", Access.READ_WRITE, "case-7/anna")
    assert manager.list(ExportFilter()).items == ()


@pytest.mark.parametrize("access", [Access.READ_ONLY, Access.SCRATCH])
def test_evidence_is_read_for_a_case(manager, access):
    ready(manager, "evidence:case.raw", access)


def test_a_refusal_holds_for_a_disk_that_is_attached_already(manager):
    """And would be read by one more holder at no cost: a policy that wraps `attach` would not be asked."""
    ready(manager, "evidence:case.raw", Access.READ_ONLY)
    (attached,) = manager.attachments()
    assert attached.plan.disk.id.native == "case.raw"
    with pytest.raises(errors.Refused, match="names no case"):
        manager.export("evidence:case.raw", Access.READ_ONLY, "ben")


def test_what_is_no_evidence_is_written_for_anybody(manager):
    ready(manager, "scraps:case.raw", Access.READ_WRITE, "ben")
