"""The ways to confine a program: as root with all that takes, and in a user namespace as for an ordinary user."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from cloudmanager.confined import Spawner, spawner

VARIANTS = ["privileged", "user namespace"] if os.geteuid() == 0 else ["user namespace"]


@pytest.fixture(params=VARIANTS)
def confining(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spawner]:
    if request.param == "user namespace":
        monkeypatch.setattr(spawner, "is_privileged", lambda: False)
    with Spawner(is_sandboxed=True, holds=False) as made:
        yield made
