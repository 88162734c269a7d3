"""Lists the files of disks, deleted ones included: images, and disks that are in a cloud."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from openrelik_worker_common.file_utils import create_output_file, is_disk_image
from openrelik_worker_common.reporting import Report
from openrelik_worker_common.task_utils import create_task_result, get_input_files

from cloudmanager.client.access_methods import AccessMethod
from cloudmanager.client.access_methods.errors import AccessLost
from cloudmanager.client.errors import ExportLost
from cloudmanager.client.openrelik import PreparationFailed, PreparedFiles, postprocess, preprocess
from src.app import celery
from src.listing import list_files

TASK_NAME = "openrelik-worker-cloud-disk.tasks.list_files"
TASK_METADATA = {
    "display_name": "Cloud disk: list files",
    "description": "Lists the files of disk images and cloud disks with The Sleuth Kit, deleted files included.",
    "task_config": [
        {
            "name": "deleted_only",
            "label": "Deleted files only",
            "description": "Leave out the files that are still there.",
            "type": "checkbox",
            "required": False,
        }
    ],
}
AGAIN_SECONDS = float(os.getenv("AGAIN_SECONDS") or 30)


@celery.task(bind=True, name=TASK_NAME, metadata=TASK_METADATA, max_retries=3)
def command(
    self: Any,
    pipe_result: str | None = None,
    input_files: list[dict[str, Any]] | None = None,
    output_path: str = "",
    workflow_id: str = "",
    task_config: dict[str, Any] | None = None,
) -> str:
    """One output file for each disk."""
    deleted_only = bool((task_config or {}).get("deleted_only"))
    wanted = get_input_files(pipe_result, input_files or [])
    try:
        prepared = preprocess(wanted, method=AccessMethod.FILE, holder=f"openrelik-{self.request.id}")
        try:
            outputs = [
                _listed(disk, Path(output_path), deleted_only=deleted_only) for disk in prepared if is_disk_image(disk)
            ]
        finally:
            postprocess(prepared)
    except (ExportLost, AccessLost) as error:  # what was written so far cannot be relied on
        raise self.retry(exc=error, countdown=AGAIN_SECONDS) from error
    except PreparationFailed as error:
        if not error.retriable:
            raise
        raise self.retry(exc=error, countdown=AGAIN_SECONDS) from error
    return create_task_result(
        output_files=outputs,
        workflow_id=workflow_id,
        command="fls -r -p" + " -d" * deleted_only,
        task_report=_report(outputs, prepared).to_dict(),
    )


def _listed(disk: dict[str, Any], output_path: Path, *, deleted_only: bool) -> dict[str, Any]:
    output = create_output_file(
        str(output_path),
        display_name=f"{disk['display_name']}.files",
        extension="txt",
        data_type="openrelik:cloud-disk:file-list",
        source_file_id=disk.get("id"),
    )
    with Path(output.path).open("w", encoding="utf-8") as file:
        for line in list_files(disk["path"], deleted_only=deleted_only):
            print(line, file=file)
    return dict(output.to_dict())


def _report(outputs: list[dict[str, Any]], prepared: PreparedFiles) -> Report:
    report = Report("Files of disks")
    report.summary = f"{len(outputs)} disks listed, {len(prepared.failures)} could not be"
    section = report.add_section()
    for failure in prepared.failures:
        section.add_bullet(f"{failure.input_file.get('display_name')}: {failure.error.detail}")
    return report
