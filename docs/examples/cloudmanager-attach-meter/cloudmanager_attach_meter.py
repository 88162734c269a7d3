"""A meter: every attach of every provider, with its duration and its end, as a line of JSON in a file."""

import json
import logging
import os
import time
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

from cloudmanager import Attachment, AttachPlan, errors, hookimpl

VARIABLE = "CLOUDMANAGER_METER_FILE"
log = logging.getLogger(__name__)


@hookimpl(wrapper=True)
def attach(provider: str, plan: AttachPlan) -> Generator[None, Attachment, Attachment]:
    started, outcome = time.monotonic(), "attached"
    try:
        return (yield)
    except errors.CloudManagerError as error:
        outcome = error.code
        raise
    except Exception:
        outcome = "defect"
        raise
    finally:
        _write(provider, plan, outcome, time.monotonic() - started)


def _write(provider: str, plan: AttachPlan, outcome: str, seconds: float) -> None:
    line = {
        "at": datetime.now(UTC).isoformat(),
        "provider": provider,
        "disk": plan.disk.canonical_id,
        "bytes": plan.disk.size_bytes,
        "outcome": outcome,
        "seconds": round(seconds, 3),
    }
    try:
        with Path(os.environ.get(VARIABLE, "attaches.jsonl")).open("a") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        log.warning("an attach was not metered: %s", error)  # a meter that is full stops no attach
