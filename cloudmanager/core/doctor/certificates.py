"""The certificates that exports are served with."""

from collections.abc import Iterator

from cloudmanager.core import certificates
from cloudmanager.core.model import Finding
from cloudmanager.core.settings import Settings


def check_certificates(settings: Settings) -> Iterator[Finding]:
    if settings.nbd.certificates:
        yield from certificates.findings(settings.nbd.certificates, settings.nbd.advertised)
