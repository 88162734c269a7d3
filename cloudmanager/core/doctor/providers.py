"""Each configured provider: whether it knows this machine, and what it says of itself."""

from collections.abc import Iterable, Iterator

from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.model import Finding, Severity
from cloudmanager.core.plugins import Provider


def check_providers(providers: Iterable[Provider]) -> Iterator[Finding]:
    configured = list(providers)
    if not configured:
        yield Finding(
            "providers",
            Severity.WARNING,
            "none is configured, so there is nothing to export",
            "Add a [providers.NAME] table; `cloudmanager config example` shows one of each type.",
        )
    for provider in configured:
        yield from _check(provider)


def _check(provider: Provider) -> Iterator[Finding]:
    subject = f"provider {provider.name}"
    try:
        node = provider.node()
        place = f" in {node.location}" if node.location else ""
        yield Finding(subject, Severity.OK, f"{provider.type}: this machine is {node.name}{place}")
        yield from provider.diagnose()
    except CloudManagerError as error:
        yield Finding(subject, Severity.PROBLEM, f"{provider.type}: {error.title.lower()}", error.detail)
