"""Gives what a disk has become to openrelik-worker-common's own BlockDevice, which mounts all of it."""

import json
import os
from pathlib import Path

from openrelik_worker_common.mount_utils import BlockDevice

from cloudmanager.client.access_methods import AccessMethod
from cloudmanager.client.openrelik import postprocess, preprocess
from tests.vm.programs.conversation import receive, say

descriptor = Path("/run/evidence.json")
descriptor.write_text(json.dumps({"disk": "local:evidence.raw"}))
input_file = {"display_name": "evidence.json", "data_type": "cloud:cloudmanager:disk", "path": str(descriptor)}
prepared = preprocess([input_file], method=AccessMethod(os.environ["WAY"]))
try:
    block_device = BlockDevice(prepared[0]["path"], min_partition_size=1)
    block_device.setup()
    try:
        places = block_device.mount()
        greetings = [Path(place, "greeting").read_text() for place in places]
        say(path=prepared[0]["path"], device=block_device.blkdevice, greetings=greetings)
    finally:
        block_device.umount()
finally:
    postprocess(prepared)
receive()
