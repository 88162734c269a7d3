"""For OpenRelik workers: cloud disks among a task's input files become files that its tools can read.

    from cloudmanager.client.openrelik import postprocess, preprocess

    input_files = preprocess(get_input_files(pipe_result, input_files or []))
    try:
        for input_file in input_files:
            examine(input_file["path"])
    finally:
        postprocess(input_files)

An input file is a dict with `data_type`, `path` and `display_name`, as openrelik-worker-common gives it to a task
(`get_input_files`). One that describes a cloud disk is a small JSON file: see `descriptor`.
"""

from cloudmanager.client.openrelik.descriptor import DATA_TYPE, Descriptor, describes_disk
from cloudmanager.client.openrelik.errors import DescriptorError, DiskNotNamed
from cloudmanager.client.openrelik.prepared import Failure, PreparationFailed, PreparedFiles, postprocess, preprocess

__all__ = [
    "DATA_TYPE",
    "Descriptor",
    "DescriptorError",
    "DiskNotNamed",
    "Failure",
    "PreparationFailed",
    "PreparedFiles",
    "describes_disk",
    "postprocess",
    "preprocess",
]
