"""The lock of a service's directory. That two services are never on it, test_manager.py proves."""

from __future__ import annotations

import threading
from pathlib import Path

from cloudmanager.core.statedir import StateDirectory


def test_a_lock_that_a_killed_service_holds_for_a_moment_more_is_waited_for(tmp_path: Path) -> None:
    killed = StateDirectory.open(tmp_path)
    gone = threading.Timer(0.3, killed.close)
    gone.start()
    StateDirectory.open(tmp_path).close()
    gone.join()
