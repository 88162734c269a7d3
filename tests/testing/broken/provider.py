"""A provider with one defect: what the conformance suite must not let pass."""

from collections.abc import Callable
from typing import ClassVar

from cloudmanager.providers.gce.provider import GceProvider


class Broken(GceProvider):
    """`fails` names the checks: `describing[x]` is a check with a parameter whose id is x."""

    fails: ClassVar[tuple[str, ...]] = ()


def failing(*checks: str) -> Callable[[type[Broken]], type[Broken]]:
    """Names the checks that the provider must fail."""

    def declare(provider: type[Broken]) -> type[Broken]:
        provider.fails = checks
        ALL.append(provider)
        return provider

    return declare


ALL: list[type[Broken]] = []
"""In the order of their declaration."""
