"""What the page on operating shows works as it stands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psycopg

from cloudmanager.core.model import AttachmentState, Severity
from cloudmanager.core.store import Store
from cloudmanager.core.store.check import check
from tests.checkout import ROOT
from tests.core.schemas.rows import NODE, StoppedClock, fill
from tests.docs.test_pages import blocks


def test_a_backup_of_postgresql_comes_back_and_disowns_what_is_attached(postgres_url: str, tmp_path: Path) -> None:
    server = postgres_url.replace("+psycopg", "")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE shown_in_the_docs")
    store = Store.open(f"{postgres_url}/shown_in_the_docs", StoppedClock())
    fill(store)
    before, attached = store.contents(), len(store.attachments.all())
    (script,) = [block for block in blocks(ROOT / "docs" / "operating.md", "sh") if "pg_dump" in block]
    store.close()
    environment = {**os.environ, "DATABASE_URL": f"{server}/shown_in_the_docs"}
    subprocess.run(["bash", "-euc", script], cwd=tmp_path, env=environment, check=True, capture_output=True)
    store = Store.open(f"{postgres_url}/shown_in_the_docs", StoppedClock())
    assert store.contents().exports == before.exports
    assert [record.state for record in store.attachments.all()] == [AttachmentState.FOREIGN] * attached
    assert store.maintenance.is_draining(NODE)
    store.close()
    assert {finding.severity for finding in check(f"{postgres_url}/shown_in_the_docs")} == {Severity.OK}
