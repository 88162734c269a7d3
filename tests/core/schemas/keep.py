"""Keeps a store of the newest schema: run by `make keep-schema` whenever there is a new migration.

Until a release has it, a migration may change, and its store is kept anew. Afterwards neither is changed any more.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from alembic.script import ScriptDirectory

from cloudmanager.core.store import Store
from cloudmanager.core.store.database import migrations
from tests.conftest import postgres_server
from tests.core.schemas.kept import Kept
from tests.core.schemas.rows import StoppedClock, fill


def main() -> None:
    revision = str(ScriptDirectory.from_config(migrations()).get_current_head())
    with tempfile.TemporaryDirectory() as directory, postgres_server() as server:
        for engine, url in (("sqlite", f"sqlite:///{Path(directory)}/store"), ("postgresql", f"{server}/postgres")):
            store = Store.open(url, StoppedClock())
            fill(store)
            store.close()
            Kept(revision, engine).dump(url)


if __name__ == "__main__":
    main()
