import pytest

from cloudmanager import Access, DiskId
from cloudmanager.core.errors import InvalidDiskId
from cloudmanager.core.model import CLAIMING_STATES, LIVE_STATES, OVER_STATES, ExportState


def test_a_disk_id_is_its_provider_and_whatever_follows_the_first_colon() -> None:
    parsed = DiskId.parse("prod:projects/p/zones/z/disks/a:b")
    assert (parsed.provider, parsed.native) == ("prod", "projects/p/zones/z/disks/a:b")
    assert DiskId.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "web01.qcow2",
        "local:",
        ":web01",
        "Local:web01",
        "../x:y",
        "local:a\0b",
        "local:a\nb",
        "local:\udcff",
        "local:" + "x" * 10_240,
        "local:" + "ü" * 600,
    ],
)
def test_a_malformed_disk_id_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(InvalidDiskId) as caught:
        DiskId.parse(text)
    assert caught.value.detail.endswith(".")
    assert len(caught.value.detail) < 300
    caught.value.detail.encode()


def test_only_read_write_writes_the_disk() -> None:
    assert [access for access in Access if access.writes_disk] == [Access.READ_WRITE]


def test_every_export_state_is_live_closing_or_over() -> None:
    assert LIVE_STATES | OVER_STATES | {ExportState.CLOSING} == set(ExportState)
    assert set(ExportState) - OVER_STATES == CLAIMING_STATES
