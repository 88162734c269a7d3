"""The Compute Engine provider passes the conformance suite."""

from cloudmanager.testing.conformance import ProviderConformance
from tests.providers.gce.harness import GceHarness


class TestGce(ProviderConformance):
    harness_type = GceHarness
