"""The world in which the Compute Engine provider is certified."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cloudmanager.core.errors import (
    AccessDenied,
    AttachLimit,
    CloudError,
    CloudManagerError,
    CloudUnavailable,
    DiskNotFound,
    Throttled,
    WrongZone,
)
from cloudmanager.providers import gce
from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.cloud.gce import Emulation
from cloudmanager.testing.cloud.gce.emulation import HOME, PROJECT
from cloudmanager.testing.cloud.gce.errors import THROTTLES
from cloudmanager.testing.cloud.gce.state import UNIVERSE
from cloudmanager.testing.conformance import ErrorCase
from cloudmanager.testing.conformance.emulated import NEIGHBOUR, NODE, EmulatorHarness

PREFIX = f"projects/{PROJECT}/"
ATTACH = "instances.attachDisk"
DETACH = "instances.detachDisk"
OTHER_ZONE = "Invalid value for field 'resource.source': 'x'. Disk must be in the same zone as the instance."
TOO_MANY_HYPERDISKS = "Maximum hyperdisk-balanced disks count should be less than or equal to [16], Requested : [17]"


def refused(hook: str, fault: Fault, error: type[CloudManagerError], retry_after: float | None = None) -> ErrorCase:
    """The cloud answers with `fault` every time; its code must be kept."""
    operation = {"describe": "disks.get", "attach": ATTACH, "detach": DETACH}[hook]
    every_time = replace(fault, operation=operation, times=0, retry_after=retry_after)
    code = THROTTLES[fault.form][1] if fault.effect is Effect.THROTTLE else fault.code
    return ErrorCase(
        f"{hook} {fault.effect} {fault.form or code}",
        hook,
        lambda harness, _: harness.cloud.faults.add(every_time),
        error,
        retriable=error.retriable,
        cloud_code=code,
        retry_after=retry_after,
    )


def says(code: str, status: int = 400, message: str = "") -> Fault:
    """A refusal at once."""
    return Fault("", Effect.ERROR, code=code, status=status, message=message)


def ends_with(code: str, message: str = "") -> Fault:
    """An operation that is accepted and fails."""
    return Fault("", Effect.FAIL, code=code, message=message)


def throttles(form: str = "") -> Fault:
    return Fault("", Effect.THROTTLE, form=form)


ERROR_CASES = (
    refused("describe", says("forbidden", 403), AccessDenied),
    refused("describe", says("notFound", 404), DiskNotFound),
    refused("describe", throttles(), Throttled),
    refused("describe", throttles("429"), Throttled),
    refused("describe", says("backendError", 503), CloudUnavailable),
    refused("attach", says("forbidden", 403), AccessDenied),
    refused("attach", says("authError", 401), AccessDenied),
    refused("attach", says("notFound", 404), DiskNotFound),
    refused("attach", ends_with("RESOURCE_NOT_FOUND"), DiskNotFound),
    refused("attach", says("quotaExceeded", 403), AttachLimit),
    refused("attach", ends_with("QUOTA_EXCEEDED"), AttachLimit),
    refused("attach", ends_with("LIMIT_EXCEEDED"), AttachLimit),
    refused("attach", ends_with("UNSUPPORTED_OPERATION", TOO_MANY_HYPERDISKS), AttachLimit),
    refused("attach", throttles(), Throttled, retry_after=30.0),
    refused("attach", throttles("pending"), Throttled, retry_after=30.0),
    refused("attach", throttles("429"), Throttled, retry_after=30.0),
    refused("attach", ends_with("RATE_LIMIT_EXCEEDED"), Throttled),
    refused("attach", says("invalid", 400, OTHER_ZONE), WrongZone),
    refused("attach", says("backendError", 503), CloudUnavailable),
    refused("attach", says("internalError", 500), CloudUnavailable),
    refused("attach", ends_with("INTERNAL_ERROR"), CloudUnavailable),
    refused("attach", ends_with("ZONE_RESOURCE_POOL_EXHAUSTED"), CloudUnavailable),
    refused("attach", says("badRequest", 400, "That cannot be."), CloudError),
    refused("detach", says("forbidden", 403), AccessDenied),
    refused("detach", throttles(), Throttled, retry_after=30.0),
    refused("detach", ends_with("INTERNAL_ERROR"), CloudUnavailable),
)


class GceHarness(EmulatorHarness):
    cloud: Emulation
    emulation = Emulation
    plugin = gce
    attach_operation = ATTACH
    detach_operation = DETACH
    reads = ("instances.get", "disks.get")
    denial = Fault("", Effect.ERROR, code="forbidden", status=403)
    free_slots = 15
    locations = ("us-central1-a", "europe-west4-a", "us-central1")
    supports_read_only_attach = True
    supports_sharing = True
    malformed_ids = (
        "Evidence-7",
        "-evidence",
        "evidence_7",
        "us-central1-b/",
        "/evidence-7",
        "a/b/c",
        "us-central1-b/evidence 7",
        "projects/acme-forensics/zones/us-central1-b/instances/worker-1",
        "https://example.com/compute/v1/projects/acme/zones/us-central1-b/disks/evidence-7",
        "e" * 64,
    )
    capabilities = frozenset({"snapshot", "restore", "delete"})
    error_cases = ERROR_CASES

    def start_machines(self) -> None:
        self.cloud.make_instance(NODE, machine_type="e2-medium")
        self.cloud.make_instance(NEIGHBOUR)

    def variables(self) -> Mapping[str, str]:
        key_file = str(self.cloud.credentials_file)
        return {**self.cloud.environment(NODE), "GOOGLE_APPLICATION_CREDENTIALS": key_file}

    @property
    def secrets(self) -> Sequence[str]:
        return (*self.cloud.tokens.presented, "PRIVATE KEY")

    def native_id(self, disk: str) -> str:
        _, _, location, _, name = disk.removeprefix("projects/").split("/")
        return f"{location}/{name}"

    def emulated_id(self, native: str) -> str:
        location, _, name = native.partition("/")
        scope = "regions" if location in self.cloud.state.regions else "zones"
        return f"{PREFIX}{scope}/{location}/disks/{name}"

    def shown_holder(self, instance: str) -> str:
        return f"{HOME}/{instance}"

    def missing_disk(self) -> str:
        return f"{HOME}/nobody-has-this"

    def spellings(self, disk: str) -> Sequence[str]:
        path = self.emulated_id(disk)
        return (
            disk.partition("/")[2],
            path,
            path.removeprefix(PREFIX),
            f"https://www.googleapis.com/compute/v1/{path}",
            f"https://compute.googleapis.com/compute/v1/{path}",
            f"//compute.googleapis.com/{path}",
            f"https://www.{UNIVERSE}/compute/v1/{path}",
            f"//compute.{UNIVERSE}/{path}",
            f"{HOME}/{self.cloud.state.disks[path].id}",
        )


class NvmeHarness(GceHarness):
    """On a machine type that has no SCSI controller."""

    def start_machines(self) -> None:
        self.cloud.make_instance(NODE, machine_type="c3-standard-4")
        self.cloud.make_instance(NEIGHBOUR)
