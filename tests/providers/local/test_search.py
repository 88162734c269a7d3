"""A search among many images looks into those only that it shows."""

from pathlib import Path
from typing import Any

import pytest

from cloudmanager.core.model import Query
from cloudmanager.providers.local import images
from cloudmanager.providers.local.listing import PAGE_SIZE
from cloudmanager.providers.local.opened import opened
from cloudmanager.providers.local.provider import LocalProvider
from cloudmanager.providers.local.settings import LocalSettings


@pytest.fixture
def looked_into(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    paths: list[str] = []
    real = opened

    def noting(path: Path, *rest: Any) -> object:
        paths.append(path.name)
        return real(path, *rest)

    monkeypatch.setattr(images, "opened", noting)
    return paths


def test_what_is_not_searched_for_is_not_opened(tmp_path: Path, looked_into: list[str]) -> None:
    for number in range(1_000):
        (tmp_path / f"disk-{number:03}.img").write_bytes(bytes(512))
    provider = LocalProvider("local", LocalSettings(images=(tmp_path,)))
    assert [disk.id.native for disk in provider.find(Query("K-77"), None).items] == [
        f"disk-77{last}.img" for last in range(10)
    ]
    assert len(looked_into) == 10
    assert provider.find(Query("nothing"), None).items == ()
    assert len(looked_into) == 10
    page = provider.find(Query("DISK"), None)
    assert len(page.items) == PAGE_SIZE
    assert len(looked_into) == 10 + PAGE_SIZE + 1
