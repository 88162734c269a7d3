"""How fast content arrives, as one thread sees it."""

import time

MIB = 1024 * 1024
STEP_BYTES = MIB // 2
"""So much is under way while it is measured: a fast link is kept busy, and on a slow one it is soon there."""
_WARM_UP_BYTES = MIB // 2
"""At the start a connection is slower."""


class Pace:
    """Bytes over time, without the first ones. Told what is sent, and when all of that has arrived."""

    def __init__(self, step_bytes: int = STEP_BYTES) -> None:
        """`step_bytes` are sent before they are waited for, once the first ones are there."""
        self._step_bytes = step_bytes
        self._is_warm = False
        self.since = time.monotonic()
        """When the first ones had arrived."""
        self.under_way = 0
        self.bytes = 0
        self.seconds = 0.0

    def sent(self, count: int) -> bool:
        """Whether it is time to wait for what is under way."""
        self.under_way += count
        return self.under_way >= (max(self._step_bytes, self.bytes) if self._is_warm else _WARM_UP_BYTES)

    def arrived(self) -> None:
        if self._is_warm:
            self.bytes += self.under_way
            self.seconds = time.monotonic() - self.since
        else:
            self._is_warm, self.since = True, time.monotonic()
        self.under_way = 0

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.bytes / max(self.seconds, 1e-6)
