"""Taking turns: a machine whose speed drifts slows every variant alike."""

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
    case: str, rounds: int, variants: Mapping[str, Attempt], *, once_if_slower: float = math.inf
) -> Iterator[Series]:
    """Every variant once in each round; every second round in the opposite order.

    A variant that took `once_if_slower` times as long as the fastest is not taken again: no round would change that.
    """
    taken: dict[str, list[Measured]] = {variant: [attempt()] for variant, attempt in variants.items()}
    again = _fast(taken, once_if_slower)
    for number in range(1, rounds):
        for variant in again[:: -1 if number % 2 else 1]:
            taken[variant].append(variants[variant]())
    for variant, measured in taken.items():
        for quantity in measured[0]:
            yield Series(case, variant, quantity, rounded(each[quantity] for each in measured))


def _fast(taken: Mapping[str, list[Measured]], times: float) -> list[str]:
    if times == math.inf:
        return list(taken)
    seconds = {variant: measured[0][Quantity.SECONDS] for variant, measured in taken.items()}
    return [variant for variant, each in seconds.items() if each < times * min(seconds.values())]
