"""Which virtual machine this is."""

import json
import threading
from typing import Any

from cloudmanager.core.errors import ConfigurationError
from cloudmanager.core.model import Node
from cloudmanager.providers._metadata import MetadataServer
from cloudmanager.providers.azure.facts import Place
from cloudmanager.providers.azure.resource_id import MACHINES, ResourceId, is_well_formed
from cloudmanager.providers.azure.settings import AzureSettings

_INSTANCE = "/metadata/instance/compute?api-version=2021-10-01&format=json"
_HEADERS = {"Metadata": "true"}
_ADVICE = "Set subscription_id, vm (as group/name) and location in its table where there is no metadata server."


class ThisMachine:
    """Asks the metadata server at most once, and only for what the settings leave open. Thread-safe."""

    def __init__(self, settings: AzureSettings, provider: str) -> None:
        self._settings = settings
        self._where = f"[providers.{provider}]"
        advice = f"{self._where} {_ADVICE}"
        self._server = MetadataServer(settings.metadata_url, timeout=settings.metadata_timeout_seconds, advice=advice)
        self._answer: dict[str, Any] | None = None
        self._lock = threading.Lock()

    @property
    def id(self) -> ResourceId:
        """Raises ConfigurationError."""
        full = ResourceId.of(self._settings.vm) or self._from_settings() or self._from_metadata()
        if full.kind.casefold() != MACHINES.casefold() or not is_well_formed(full):
            raise ConfigurationError(f"{self._where} vm: {full} is not the id of a virtual machine. {_ADVICE}")
        return full

    @property
    def subscription(self) -> str:
        """Of the disks. Raises ConfigurationError."""
        return self._settings.subscription_id or self.id.subscription

    @property
    def group(self) -> str:
        """Of disks that are named without one. Raises ConfigurationError."""
        return self._settings.resource_group or self.id.group

    @property
    def place(self) -> Place:
        """Raises ConfigurationError."""
        if self._settings.location:
            return Place.parse(self._settings.location)
        compute = self._compute()
        return Place(str(compute["location"]), str(compute["zone"]))

    def node(self) -> Node:
        """Raises ConfigurationError that says what was tried."""
        id = self.id
        if id.subscription.casefold() != self.subscription.casefold():
            raise ConfigurationError(
                f"{self._where} subscription_id is {self.subscription}, and this machine is in {id.subscription}: "
                "Azure attaches no disks across subscriptions. Run cloudmanager on a machine of that subscription."
            )
        return Node(id.name, str(self.place), str(id))

    def _from_settings(self) -> ResourceId | None:
        group, slash, name = self._settings.vm.rpartition("/")
        group = group if slash else self._settings.resource_group
        if not (name and group and self._settings.subscription_id):
            return None
        return ResourceId(self._settings.subscription_id, group, MACHINES, name)

    def _from_metadata(self) -> ResourceId:
        text = str(self._compute()["resourceId"])
        found = ResourceId.of(text)
        if found is None:
            raise ConfigurationError(
                f"{self._where} The metadata server calls this machine {text!a}, which is no plain virtual machine: "
                "machines of a uniform scale set cannot attach disks this way. Use a flexible scale set."
            )
        group, slash, name = self._settings.vm.rpartition("/")
        return ResourceId(found.subscription, group if slash else found.group, MACHINES, name or found.name)

    def _compute(self) -> dict[str, Any]:
        with self._lock:
            if self._answer is None:
                self._answer = self._parse(self._server.ask(_INSTANCE, _HEADERS))
            return self._answer

    def _parse(self, text: str) -> dict[str, Any]:
        try:
            answer = json.loads(text)
            return {name: answer[name] for name in ("resourceId", "location", "zone")}
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"{self._where} The metadata server at {self._settings.metadata_url} is not Azure's: its answer has no "
                f"{error}. {_ADVICE}"
            ) from error
