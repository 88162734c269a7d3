"""The Azure provider is certified; what depends on it, on both kinds of disk controllers."""

from cloudmanager.testing.cloud.azure.state import Controller
from cloudmanager.testing.conformance import ProviderConformance
from cloudmanager.testing.conformance.emulated import NEIGHBOUR, NODE
from cloudmanager.testing.conformance.locating import LocatingChecks
from tests.providers.azure.harness import SIZE, AzureHarness


class TestAzure(ProviderConformance):
    harness_type = AzureHarness


class NvmeHarness(AzureHarness):
    def start_machines(self) -> None:
        self.cloud.make_instance(NODE, size=SIZE, controller=Controller.NVME)
        self.cloud.make_instance(NEIGHBOUR)


class TestLocatingOnNvme(LocatingChecks):
    """What the controller makes a difference to."""

    harness_type = NvmeHarness
