"""A service that has no cloud configured does not wait for a cloud's SDK to be imported."""

import subprocess
import sys
from pathlib import Path

SDKS = {"boto3", "botocore", "google", "azure", "msal", "grpc", "requests"}
START = """
import sys
from cloudmanager.core.plugins import Plugins
plugins = Plugins()
plugins.configure({"here": {"type": "local", "images": [sys.argv[1]]}})
assert {"gce", "aws", "azure"} <= set(plugins.provider_types)
print(*{name.partition(".")[0] for name in sys.modules})
"""


def test_a_service_with_local_disks_imports_no_sdk(tmp_path: Path) -> None:
    command = [sys.executable, "-c", START, str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert set(answer.stdout.split()) & SDKS == set()
