"""Which instance this is: from the settings, and for what they leave out from the metadata server."""

import os
import threading

from cloudmanager.core.errors import ConfigurationError
from cloudmanager.core.model import Node
from cloudmanager.providers._metadata import MetadataServer
from cloudmanager.providers.gce.resource_id import ResourceId
from cloudmanager.providers.gce.settings import GceSettings

_DEFAULT_HOST = "metadata.google.internal"
_FLAVOR = {"Metadata-Flavor": "Google"}


class ThisMachine:
    """Asks once, when it is first needed."""

    def __init__(self, settings: GceSettings, provider: str) -> None:
        self._settings = settings
        host = settings.metadata_host or os.environ.get("GCE_METADATA_HOST", _DEFAULT_HOST)
        self._metadata = MetadataServer(
            f"http://{host}/computeMetadata/v1",
            timeout=settings.metadata_timeout_seconds,
            advice=f"Outside of Compute Engine, set project, zone and instance in [providers.{provider}].",
        )
        self._lock = threading.Lock()
        self._known: ResourceId | None = None

    def resource(self) -> ResourceId:
        """Raises ConfigurationError that says what was tried."""
        with self._lock:
            if self._known is None:
                self._known = self._find_out()
            return self._known

    def node(self) -> Node:
        me = self.resource()
        return Node(me.name, me.location, me.path)

    def _find_out(self) -> ResourceId:
        settings = self._settings
        project = settings.project or self._ask("project/project-id")
        zone = settings.zone or self._ask("instance/zone").rpartition("/")[2]
        return ResourceId(project, f"zones/{zone}", "instances", settings.instance or self._ask("instance/name"))

    def _ask(self, key: str) -> str:
        answer = self._metadata.ask(key, _FLAVOR).strip()
        if not answer or "<" in answer:
            raise ConfigurationError(f"The metadata server has no usable {key}: it answered {answer[:80]!a}.")
        return answer
