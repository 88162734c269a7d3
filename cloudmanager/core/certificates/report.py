"""Findings on certificates: at the start, by the doctor, and by a service that runs."""

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cloudmanager.core.certificates.faults import check
from cloudmanager.core.certificates.files import Certificates
from cloudmanager.core.errors import ConfigurationError
from cloudmanager.core.model import Finding, Severity

SUBJECT = "certificates"
SOON = timedelta(days=21)
log = logging.getLogger(__name__)


def require(directory: Path, host: str) -> None:
    """For the start of a service. Raises ConfigurationError for what an operator has to fix.

    An expired certificate does not prevent the start: the service has exports to renew and disks to detach.
    """
    _, faults = check(directory, host)
    if any(not (fault.is_of_time or fault.is_of_some) for fault in faults):
        raise ConfigurationError("nbd.tls_certificates: " + " ".join(map(str, faults)))
    for fault in faults:
        what = "some clients refuse the exports" if fault.is_of_some else "no export can be served"
        log.error("%s: %s", what, fault)


def findings(directory: Path, host: str) -> list[Finding]:
    """Never empty."""
    found, faults = check(directory, host)
    if found is None or faults:
        return [Finding(SUBJECT, Severity.PROBLEM, fault.seen, fault.advice) for fault in faults]
    return [_lasting(found)]


def _lasting(found: Certificates) -> Finding:
    seen = f"for {', '.join(found.names)}, until {found.expires_at:%Y-%m-%d}"
    if found.expires_at - datetime.now(UTC) < SOON:
        advice = f"Renew what is in {found.directory}, and then the exports: a server keeps what it was started with."
        return Finding(SUBJECT, Severity.WARNING, seen, advice)
    return Finding(SUBJECT, Severity.OK, seen)
