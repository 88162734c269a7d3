"""Puts the provider together for the machine that it runs on. Imports the SDK."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from cloudmanager.providers.azure.api import Compute
from cloudmanager.providers.azure.attaching import Attaching
from cloudmanager.providers.azure.changes import Changes
from cloudmanager.providers.azure.copies import Copies
from cloudmanager.providers.azure.detaching import Detaching
from cloudmanager.providers.azure.listing import Listing
from cloudmanager.providers.azure.locating import Locating
from cloudmanager.providers.azure.machine import ThisMachine
from cloudmanager.providers.azure.machine_view import MachineView
from cloudmanager.providers.azure.proof import Proofs
from cloudmanager.providers.azure.settings import AzureSettings


@dataclass(frozen=True)
class Parts:
    """What the hooks call."""

    compute: Compute
    attaching: Attaching
    detaching: Detaching
    locating: Locating
    listing: Listing
    copies: Copies

    @classmethod
    def build(cls, settings: AzureSettings, machine: ThisMachine) -> Self:
        """Raises ConfigurationError when it cannot be found out which machine this is."""
        id, subscription = machine.id, machine.subscription
        compute = Compute(settings, subscription)
        view = MachineView(compute, id, settings.look_seconds)
        slots = settings.slots(id.key)
        changes = Changes(compute, view, id, settings)
        locating = Locating(compute, view, id, settings.block_devices)
        proofs = Proofs(compute, timedelta(seconds=settings.request_timeout_seconds))
        return cls(
            compute,
            Attaching(compute, view, id, slots, changes, proofs, locating.glimpse),
            Detaching(compute, view, id, slots, changes, proofs),
            locating,
            Listing(compute, settings.endpoint, subscription, settings.find_in),
            Copies(compute),
        )
