"""Checks whether this machine has what the service needs, and says what to do about each problem.

Nothing is changed; what a check writes to a temporary place is gone when it returns.
"""

from collections.abc import Iterable, Iterator

from cloudmanager.core.doctor.directories import check_directories
from cloudmanager.core.doctor.machine import check_kernel, check_privileges
from cloudmanager.core.doctor.network import check_certificates, check_network
from cloudmanager.core.doctor.openfiles import check_open_files
from cloudmanager.core.doctor.qemu import check_qemu
from cloudmanager.core.doctor.sandbox import check_limits, check_sandbox
from cloudmanager.core.doctor.store import check_store
from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.model import Finding, Severity
from cloudmanager.core.plugins import Provider
from cloudmanager.core.settings import Settings


def examine(settings: Settings, providers: Iterable[Provider]) -> Iterator[Finding]:
    """Every finding, good ones too, as each check is done."""
    yield from check_qemu(settings)
    yield from check_sandbox(settings)
    yield from check_limits(settings)
    yield from check_kernel()
    yield check_privileges()
    yield from check_open_files(settings)
    yield from check_directories(settings)
    yield from check_store(settings)
    yield from check_network(settings)
    yield from check_certificates(settings)
    yield from _check_providers(providers)


def _check_providers(providers: Iterable[Provider]) -> Iterator[Finding]:
    configured = list(providers)
    if not configured:
        yield Finding(
            "providers",
            Severity.WARNING,
            "none is configured, so no disk can be exported",
            "Add a [providers.NAME] table; `cloudmanager config example` shows one of each type.",
        )
    for provider in configured:
        yield from _check_provider(provider)


def _check_provider(provider: Provider) -> Iterator[Finding]:
    subject = f"provider {provider.name}"
    try:
        node = provider.node()
        location = f" in {node.location}" if node.location else ""
        yield Finding(subject, Severity.OK, f"{provider.type}: this machine is {node.name}{location}")
        yield from provider.diagnose()
    except CloudManagerError as error:
        yield Finding(subject, Severity.PROBLEM, f"{provider.type}: {error.title.lower()}", error.detail)
