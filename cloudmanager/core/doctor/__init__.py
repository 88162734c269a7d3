"""Looks at this machine as the service will need it, and says what to do about each problem.

Nothing is changed; what a check writes to a temporary place is gone when it returns.
"""

from collections.abc import Iterable, Iterator

from cloudmanager.core.doctor.certificates import check_certificates
from cloudmanager.core.doctor.directories import check_directories
from cloudmanager.core.doctor.kernel import check_kernel
from cloudmanager.core.doctor.limits import check_limits
from cloudmanager.core.doctor.network import check_network
from cloudmanager.core.doctor.openfiles import check_open_files
from cloudmanager.core.doctor.privileges import check_privileges
from cloudmanager.core.doctor.providers import check_providers
from cloudmanager.core.doctor.qemu import check_qemu
from cloudmanager.core.doctor.sandbox import check_sandbox
from cloudmanager.core.doctor.store import check_store
from cloudmanager.core.model import Finding
from cloudmanager.core.plugins import Provider
from cloudmanager.core.settings import Settings


def examine(settings: Settings, providers: Iterable[Provider]) -> Iterator[Finding]:
    """Every finding, good ones too, as each check is done."""
    yield from check_qemu(settings)
    yield from check_sandbox(settings)
    yield from check_limits(settings)
    yield from check_kernel()
    yield from check_privileges()
    yield from check_open_files(settings)
    yield from check_directories(settings)
    yield from check_store(settings)
    yield from check_network(settings)
    yield from check_certificates(settings)
    yield from check_providers(providers)
