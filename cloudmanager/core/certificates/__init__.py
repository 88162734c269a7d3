"""The certificates (X.509) that servers of exports show and trust: read, and judged before anything relies on them."""

from cloudmanager.core.certificates.faults import CertificateFault, check, faults
from cloudmanager.core.certificates.files import Certificates, Unreadable
from cloudmanager.core.certificates.report import findings, require

__all__ = ["CertificateFault", "Certificates", "Unreadable", "check", "faults", "findings", "require"]
