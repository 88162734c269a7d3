"""The provider passes cloudmanager's conformance suite."""

from cloudmanager.testing.conformance import ProviderConformance

from harness import ArchiveHarness


class TestArchive(ProviderConformance):
    harness_type = ArchiveHarness
