"""The suite that certifies a provider. A provider's author writes a `Harness` and subclasses `ProviderConformance`.

class TestMine(ProviderConformance):
    harness_type = MyHarness
"""

import pytest

from cloudmanager.testing.conformance.harness import ErrorCase, Harness, Trouble

pytest.register_assert_rewrite(
    *(f"{__name__}.{module}" for module in ("attaching", "checks", "copying", "crashing", "describing", "detaching")),
    f"{__name__}.locating",
    f"{__name__}.suite",
)

from cloudmanager.testing.conformance.suite import ProviderConformance  # noqa: E402 - after the line above

__all__ = ["ErrorCase", "Harness", "ProviderConformance", "Trouble"]
