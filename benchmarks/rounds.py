"""Taking turns: a machine whose speed drifts slows every way alike."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from benchmarks.figures import Quantity, Series, rounded

Measured = Mapping[Quantity, float]
Attempt = Callable[[], Measured]


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    is_quick: bool = False

    def rounds(self, full: int) -> int:
        return 1 if self.is_quick else full

    def size(self, full: int) -> int:
        """Bytes."""
        return full // 16 if self.is_quick else full

    def count(self, full: int) -> int:
        return max(2, full // 10) if self.is_quick else full


def take_turns(
    case: str, rounds: int, ways: Mapping[str, Attempt], *, once_if_slower: float = math.inf
) -> Iterator[Series]:
    """Every way once in each round; every second round in the opposite order.

    A way that took `once_if_slower` times as long as the fastest is not taken again: no round would change that.
    """
    taken: dict[str, list[Measured]] = {way: [attempt()] for way, attempt in ways.items()}
    again = _fast(taken, once_if_slower)
    for number in range(1, rounds):
        for way in again[:: -1 if number % 2 else 1]:
            taken[way].append(ways[way]())
    for way, measured in taken.items():
        for quantity in measured[0]:
            yield Series(case, way, quantity, rounded(each[quantity] for each in measured))


def _fast(taken: Mapping[str, list[Measured]], times: float) -> list[str]:
    if times == math.inf:
        return list(taken)
    seconds = {way: measured[0][Quantity.SECONDS] for way, measured in taken.items()}
    return [way for way, each in seconds.items() if each < times * min(seconds.values())]
