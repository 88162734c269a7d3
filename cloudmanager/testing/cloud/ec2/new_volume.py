"""What CreateVolume makes of its parameters, and what it refuses."""

from cloudmanager.testing.cloud.ec2 import errors
from cloudmanager.testing.cloud.ec2.accounts import ZONES
from cloudmanager.testing.cloud.ec2.schema import Parameters
from cloudmanager.testing.cloud.ec2.state import Scope, Snapshot

_SIZES_GIB = {
    "standard": (1, 1024),
    "gp2": (1, 16_384),
    "gp3": (1, 65_536),
    "io1": (4, 16_384),
    "io2": (4, 65_536),
    "st1": (125, 16_384),
    "sc1": (125, 16_384),
}
_PROVISIONED = ("io1", "io2")


def check_kind(kind: str, parameters: Parameters) -> None:
    if parameters.flag("MultiAttachEnabled") and kind not in _PROVISIONED:
        raise errors.Ec2Error(
            "InvalidParameterCombination", f"The parameter MultiAttachEnabled is not supported for {kind} volumes."
        )
    if kind in _PROVISIONED and parameters.number("Iops") is None:
        raise errors.missing_parameter("iops")
    if kind not in (*_PROVISIONED, "gp3") and parameters.number("Iops") is not None:
        raise errors.Ec2Error("InvalidParameterCombination", f"The parameter iops is not supported for {kind} volumes.")


def zone_of(scope: Scope, parameters: Parameters) -> str:
    zone = parameters.optional("AvailabilityZone")
    if zone is None:
        raise errors.missing_parameter("availabilityZone")
    if zone not in ZONES[scope.region]:
        raise errors.Ec2Error("InvalidZone.NotFound", f"The zone '{zone}' does not exist.")
    return zone


def size_of(kind: str, parameters: Parameters, snapshot: Snapshot | None) -> int:
    size = parameters.number("Size")
    if size is None and snapshot is None:
        raise errors.missing_parameter("size/snapshot")
    if size is not None and snapshot is not None and size < snapshot.size_gib:
        raise errors.invalid_value(size, "size", f"The size of the snapshot is {snapshot.size_gib} GiB.")
    chosen = size if size is not None else snapshot.size_gib if snapshot else 0
    least, most = _SIZES_GIB[kind]
    if not least <= chosen <= most:
        raise errors.invalid_value(chosen, "size", f"Volume of {chosen}GiB is out of {least}-{most} for {kind}.")
    return chosen
