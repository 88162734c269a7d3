"""The local provider passes the conformance suite, as far as it is about disks that are here already."""

import pytest

from cloudmanager.core.errors import DeviceMismatch
from cloudmanager.testing.conformance import ProviderConformance
from cloudmanager.testing.conformance.checks import describe
from tests.providers.local.harness import ImageHarness, LoopDeviceHarness


class TestImages(ProviderConformance):
    harness_type = ImageHarness

    def test_another_disk_under_the_name_is_not_used(self, harness: ImageHarness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        disk = describe(provider, native)
        (harness.images / harness.make_disk()).replace(harness.images / native)
        with pytest.raises(DeviceMismatch):
            provider.locate(disk)


class TestLoopDevices(ProviderConformance):
    harness_type = LoopDeviceHarness
