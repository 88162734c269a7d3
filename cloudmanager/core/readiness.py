"""Whether a service can serve requests now."""

import shutil
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace

from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.model import Finding, Severity
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.provider_nodes import ProviderNodes
from cloudmanager.core.reconciler import Reconciler
from cloudmanager.core.settings import NbdSettings
from cloudmanager.core.store import Store


class Readiness:
    """Checks what the service depends on."""

    def __init__(
        self,
        node: str,
        store: Store,
        reconciler: Reconciler,
        plugins: Plugins,
        provider_nodes: ProviderNodes,
        settings: NbdSettings,
        is_ending: threading.Event,
    ) -> None:
        self._node = node
        self._store = store
        self._reconciler = reconciler
        self._plugins = plugins
        self._provider_nodes = provider_nodes
        self._settings = settings
        self._is_ending = is_ending

    def findings(self) -> tuple[Finding, ...]:
        """Any PROBLEM says no."""
        return (
            self._store_finding(),
            self._reconciler_finding(),
            *self._program_findings(),
            *self._provider_nodes.findings(),
            *self._certificate_findings(),
            *self._maintenance_findings(),
            *([Finding("service", Severity.PROBLEM, "is ending")] if self._is_ending.is_set() else []),
        )

    def _store_finding(self) -> Finding:
        """Reads it now. The last write shows whether it can be written: it is at most half a minute old, and a failed
        one is tried again with every resync.
        """
        try:
            self._store.nodes.all()
        except CloudManagerError as error:
            return Finding("store", Severity.PROBLEM, error.detail)
        if failure := self._store.write_failure:
            return Finding("store", Severity.PROBLEM, failure.detail)
        return Finding("store", Severity.OK, "answers")

    def _program_findings(self) -> Iterator[Finding]:
        """Whether a server can be started at all. `doctor` tries it."""
        needed = {"qemu-nbd": "qemu-utils"}
        if self._settings.sandbox == "bubblewrap":
            needed["bwrap"] = "bubblewrap"
        for program, package in needed.items():
            if shutil.which(program) is None:
                seen = "not found on the PATH of the service: exports cannot be served"
                yield Finding(program, Severity.PROBLEM, seen, f"apt-get install {package}")

    def _certificate_findings(self) -> Iterable[Finding]:
        """At most they keep new servers from starting: existing exports can still be renewed."""
        if not self._settings.certificates:
            return []
        from cloudmanager.core import certificates  # noqa: PLC0415 - 9 MiB that few services need

        found = certificates.findings(self._settings.certificates, self._settings.advertised)
        return [replace(each, severity=Severity.WARNING) for each in found if each.severity is not Severity.OK]

    def _maintenance_findings(self) -> Iterator[Finding]:
        """Of operators' actions that keep new exports from this node."""
        try:
            pauses = self._store.maintenance.pauses()
            drain = next((node.drain for node in self._store.nodes.all() if node.name == self._node), None)
        except CloudManagerError:
            return  # the store's own finding says so
        for provider in self._plugins:
            if pause := pauses.get(provider.name):
                yield Finding(f"provider {provider.name}", Severity.WARNING, f"paused {pause}")
        if drain:
            yield Finding(f"node {self._node}", Severity.WARNING, f"draining {drain}")

    def _reconciler_finding(self) -> Finding:
        if self._reconciler.is_running:
            return Finding("reconciler", Severity.OK, "runs")
        return Finding("reconciler", Severity.PROBLEM, "does not run", "Start the service again.")
