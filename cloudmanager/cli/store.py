"""cloudmanager store"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from cloudmanager.cli import configuration
from cloudmanager.cli.exits import Exit
from cloudmanager.cli.extras import extra
from cloudmanager.cli.findings import report

if TYPE_CHECKING:
    from cloudmanager.core.store.backup import Restored


def run_check(config: Path | None, file: Path | None, as_json: bool) -> Exit:
    """PROBLEM if something is wrong with the store, or with the file that is named in its place."""
    settings = configuration.load(config)
    with extra("server"):
        from cloudmanager.core.store import sqlite_file
        from cloudmanager.core.store.check import check
    return report(check(sqlite_file.url_of(file) if file else settings.store_url), as_json=as_json)


def run_backup(config: Path | None, file: Path, *, as_json: bool) -> None:
    settings = configuration.load(config)
    with extra("server"):
        from cloudmanager.core.store.backup import back_up
    back_up(settings.store_url, file)
    size_bytes = file.stat().st_size
    if as_json:
        print(json.dumps({"file": str(file), "size_bytes": size_bytes}))
    else:
        print(f"{file}: {size_bytes / 1024**2:.1f} MiB, complete and checked")


def run_restore(config: Path | None, file: Path, *, as_json: bool) -> None:
    settings = configuration.load(config)
    with extra("server"):
        from cloudmanager.core.store.backup import restore
    restored = restore(settings, file)
    if as_json:
        print(json.dumps(_answer(restored)))
    else:
        _report(restored, file)


def _answer(restored: "Restored") -> dict[str, object]:
    disowned = [{"disk": str(record.plan.disk.id), "node": record.node} for record in restored.disowned]
    kept = str(restored.kept) if restored.kept else None
    return {"store": str(restored.path), "kept": kept, "disowned": disowned}


def _report(restored: "Restored", file: Path) -> None:
    print(f"{restored.path} is what {file} was.")
    if restored.kept:
        print(f"The previous store is kept as {restored.kept}.")
    if restored.disowned:
        print("These disks were attached when the backup was made. They are used, but not detached any more:")
        for record in restored.disowned:
            print(f"  {record.plan.disk.id} on {record.node}")
