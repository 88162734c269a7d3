"""Servers of a daemon that may have few files open."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from cloudmanager.core.errors import ResourcesExhausted
from cloudmanager.core.openfiles import files_for
from tests.core.bench import no_more_files
from tests.core.nbd.exporter import Exporter, device


def test_a_server_that_cannot_be_recognised_is_neither_ended_nor_doubled(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    later = exporter.succeeded()
    try:
        for process in (served.process, None):
            with no_more_files(), pytest.raises((ResourcesExhausted, OSError)):
                later.adopt(served, process)
        assert later.adopt(served, None) == served.process
    finally:
        later.stop_all()


def test_no_more_exports_are_admitted_than_there_are_files_for(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    exporter = Exporter(tmp_path / "exports")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files_for(3), hard))
        for number in range(3):
            exporter.servers.reserve(f"export-{number}")
        with pytest.raises(ResourcesExhausted, match="enough for 3"):
            exporter.servers.reserve("one too many")
        exporter.servers.reserve("export-0")  # it has its place
        exporter.servers.stop("export-1")
        exporter.servers.reserve("one too many")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for name in ("export-0", "export-2", "one too many"):
            exporter.servers.stop(name)
        exporter.end()
