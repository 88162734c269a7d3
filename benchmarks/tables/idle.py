"""What a service costs whose exports nobody uses: each of an image of its own, so that nothing is looked at for two."""

import time
from collections.abc import Iterator

from benchmarks.figures import Quantity, Series, rounded
from benchmarks.rig.disk import sparse_image
from benchmarks.rig.service import Service, running_service
from benchmarks.rounds import Effort
from benchmarks.tables.control import OURS, cpu_seconds, release_all, request_all

COUNTS = (250, 1000)
IMAGE_BYTES = 16 * 2**20
RECONCILE_SECONDS = 5
"""The default: what is looked at regularly is looked at so often."""
PORTS = "12000-13999"


def case(count: int) -> str:
    return f"{count:,} idle exports of images"


def measure(effort: Effort) -> Iterator[Series]:
    """Whole intervals of the regular look, the first ones left out: there everything is looked at closely."""
    tables: dict[str, dict[str, object]] = {
        "exports": {"drain_seconds": 1, "reconcile_seconds": RECONCILE_SECONDS},
        "nbd": {"ports": PORTS},
    }
    with running_service(tables) as service:
        for count in COUNTS:
            made = request_all(service, _images(service, effort.count(count)))
            time.sleep(0 if effort.is_quick else 4 * RECONCILE_SECONDS)
            shares = [_share(service, effort) for _ in range(effort.rounds(3))]
            yield Series(case(count), OURS, Quantity.SHARE, rounded(shares))
            release_all(service, made)


def _images(service: Service, count: int) -> list[str]:
    images = [sparse_image(service.images / f"{number}.raw", IMAGE_BYTES) for number in range(count)]
    return [f"local:{image.name}" for image in images]


def _share(service: Service, effort: Effort) -> float:
    seconds = 1 if effort.is_quick else 4 * RECONCILE_SECONDS
    before, began = cpu_seconds(service.pid), time.monotonic()
    time.sleep(seconds)
    return 100 * (cpu_seconds(service.pid) - before) / (time.monotonic() - began)
