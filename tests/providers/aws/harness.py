"""The world in which the conformance suite meets the AWS provider: an emulated EC2."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from cloudmanager.core.errors import (
    AccessDenied,
    AttachLimit,
    CloudManagerError,
    CloudUnavailable,
    DiskNotFound,
    Throttled,
    WrongZone,
)
from cloudmanager.providers import aws
from cloudmanager.testing.cloud.ec2 import HOME_ACCOUNT, Emulation
from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.conformance import ErrorCase
from cloudmanager.testing.conformance.emulated import NEIGHBOUR, NODE, EmulatorHarness

REGIONS = ["us-east-1", "eu-west-1"]

NEVER_AGAIN = "EC2 never gives the id of a volume again, and that is all that a volume is named by"


def _fault(operation: str, effect: Effect, **details: Any) -> Callable[[Any, str], None]:
    return lambda harness, _: harness.cloud.faults.add(Fault(operation, effect, times=0, **details))


def _refused(hook: str, code: str, error: type[CloudManagerError], *, retriable: bool = False) -> ErrorCase:
    operation = {"describe": "DescribeVolumes", "attach": "AttachVolume", "detach": "DetachVolume"}[hook]
    return ErrorCase(f"{hook} {code}", hook, _fault(operation, Effect.ERROR, code=code), error, retriable, code)


def _throttled(hook: str, operation: str, form: str) -> ErrorCase:
    arrange = _fault(operation, Effect.THROTTLE, form=form, retry_after=30)
    return ErrorCase(f"{hook} {form}", hook, arrange, Throttled, True, form, 30)


def _move_to_another_zone(harness: Any, native: str) -> None:
    harness.cloud.volume(harness.emulated_id(native)).zone = "us-east-1b"


class Ec2Harness(EmulatorHarness):
    """On a Nitro instance that takes five more volumes."""

    emulation = Emulation
    attach_operation = "AttachVolume"
    detach_operation = "DetachVolume"
    reads = ("DescribeVolumes",)
    denial = Fault("", Effect.ERROR, code="UnauthorizedOperation")
    free_slots = 5
    locations = ("us-east-1b", "eu-west-1a")
    supports_sharing = True
    capabilities = frozenset({"snapshot", "restore", "delete"})
    secrets = ("emulated-secret-access-key",)
    malformed_ids = (
        "vol-",
        "vol-1",
        "evidence-7",
        "snap-0123456789abcdef0",
        "us-east-1a/vol-0123456789abcdef0",
        "../x",
    )
    does_not_apply: ClassVar[dict[str, str]] = {
        "test_attached_in_another_mode_is_a_conflict": "EBS attaches read-write only, so there is no other mode",
        "test_a_name_that_is_used_again_is_another_disk": NEVER_AGAIN,
        "test_a_disk_that_was_replaced_gets_no_plan": NEVER_AGAIN,
        "test_a_disk_that_was_replaced_after_the_plan_is_not_attached": NEVER_AGAIN,
        "test_a_disk_that_is_replaced_while_it_is_attached_is_released": NEVER_AGAIN,
        "test_the_device_of_another_disk_with_the_name_is_not_the_disk_s": NEVER_AGAIN,
        "test_another_disk_with_the_name_is_not_detached": NEVER_AGAIN,
    }
    type_name: ClassVar[str] = "m5.large"
    network_interfaces: ClassVar[int] = 22
    error_cases = (
        _refused("describe", "InvalidVolume.NotFound", DiskNotFound),
        _refused("describe", "UnauthorizedOperation", AccessDenied),
        _refused("describe", "AuthFailure", AccessDenied),
        _refused("describe", "InternalError", CloudUnavailable, retriable=True),
        _refused("attach", "AttachmentLimitExceeded", AttachLimit),
        _refused("attach", "UnauthorizedOperation", AccessDenied),
        _refused("attach", "IncorrectState", CloudUnavailable, retriable=True),
        _refused("attach", "Unavailable", CloudUnavailable, retriable=True),
        ErrorCase(
            "attach in another zone",
            "attach",
            _move_to_another_zone,
            WrongZone,
            False,
            "InvalidVolume.ZoneMismatch",
        ),
        _refused("detach", "UnauthorizedOperation", AccessDenied),
        _refused("detach", "InternalError", CloudUnavailable, retriable=True),
        _throttled("describe", "DescribeVolumes", "RequestLimitExceeded"),
        _throttled("attach", "AttachVolume", "EC2ThrottledException"),
        _throttled("detach", "DetachVolume", "Throttling"),
    )
    cloud: Emulation

    @property
    def plugin(self) -> object:
        return aws

    def start_machines(self) -> None:
        self.cloud.make_instance(NODE, type_name=self.type_name, network_interfaces=self.network_interfaces)
        self.cloud.make_instance(NEIGHBOUR)

    def table(self) -> dict[str, Any]:
        return {**super().table(), "regions": REGIONS}

    def native_id(self, disk: str) -> str:
        region = self.cloud.volume(disk).scope.region
        return disk if region == REGIONS[0] else f"{region}/{disk}"

    def emulated_id(self, native: str) -> str:
        return native.rpartition("/")[2]

    def missing_disk(self) -> str:
        return "vol-0123456789abcdef0"

    def spellings(self, disk: str) -> Sequence[str]:
        return (disk.upper(), f"us-east-1/{disk}", f"arn:aws:ec2:us-east-1:{HOME_ACCOUNT}:volume/{disk}")

    def shown_holder(self, instance: str) -> str:
        return self.cloud.instance(instance).id


class XenHarness(Ec2Harness):
    """On a Xen instance, whose devices say nothing of themselves."""

    type_name = "m4.large"
    does_not_apply: ClassVar[dict[str, str]] = {
        "test_a_device_that_does_not_say_who_it_is_is_not_used": "no Xen device does: its slot number is all there is",
        "test_a_device_that_says_it_is_another_is_not_used": "no Xen device says who it is",
    }
