"""The AWS provider passes the conformance suite. On Xen only the way to the device differs, so only that is checked."""

from cloudmanager.testing.conformance import ProviderConformance
from cloudmanager.testing.conformance.locating import LocatingChecks
from tests.providers.aws.harness import Ec2Harness, XenHarness


class TestOnNitro(ProviderConformance):
    harness_type = Ec2Harness


class TestOnXen(LocatingChecks):
    harness_type = XenHarness
