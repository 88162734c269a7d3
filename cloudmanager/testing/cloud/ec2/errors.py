"""EC2's errors, with its codes and its words.

Words are those of recorded answers; where no recording was at hand, those of the list of error codes in the Amazon EC2
API reference.
"""


class Ec2Error(Exception):
    """An error answer. `code` and `message` go into the body as they are, `status` is that of HTTP."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


def missing_parameter(name: str) -> Ec2Error:
    return Ec2Error("MissingParameter", f"The request must contain the parameter {name}")


def unknown_parameter(name: str) -> Ec2Error:
    return Ec2Error("UnknownParameter", f"The parameter {name} is not recognized")


def invalid_value(value: object, name: str, reason: str = "") -> Ec2Error:
    return Ec2Error("InvalidParameterValue", f"Value ({value}) for parameter {name} is invalid. {reason}".rstrip())


def exclusive_parameters(one: str, other: str) -> Ec2Error:
    return Ec2Error("InvalidParameterCombination", f"The parameter {one} cannot be used with the parameter {other}")


def invalid_action(action: str) -> Ec2Error:
    return Ec2Error("InvalidAction", f"The action {action} is not valid for this web service.")


def no_signature() -> Ec2Error:
    return Ec2Error("MissingAuthenticationToken", "Request is missing Authentication Token", 403)


def auth_failure() -> Ec2Error:
    return Ec2Error("AuthFailure", "AWS was not able to validate the provided access credentials", 401)


def unauthorized(action: str, account: str) -> Ec2Error:
    return Ec2Error(
        "UnauthorizedOperation",
        f"You are not authorized to perform this operation. User: arn:aws:iam::{account}:user/emulated is not "
        f"authorized to perform: ec2:{action} because no identity-based policy allows the ec2:{action} action. "
        "Encoded authorization failure message: 4GIOHlTkIaWHQD0Q0m6XSnuUMCm-emulated",
        403,
    )


def dry_run() -> Ec2Error:
    return Ec2Error("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)


def malformed_id(kind: str, value: str, prefix: str) -> Ec2Error:
    """`kind` is Volume, Instance or Snapshot."""
    if kind == "Instance":
        return Ec2Error("InvalidInstanceID.Malformed", f'Invalid id: "{value}" (expecting "{prefix}-...")')
    return invalid_value(value, f"{kind.lower()}Id", f"Expected: '{prefix}-...'.")


def no_volume(volume: str) -> Ec2Error:
    return Ec2Error("InvalidVolume.NotFound", f"The volume '{volume}' does not exist.")


def no_instance(instance: str) -> Ec2Error:
    return Ec2Error("InvalidInstanceID.NotFound", f"The instance ID '{instance}' does not exist")


def no_snapshot(snapshot: str) -> Ec2Error:
    return Ec2Error("InvalidSnapshot.NotFound", f"The snapshot '{snapshot}' does not exist.")


def volume_attached(volume: str) -> Ec2Error:
    return Ec2Error("VolumeInUse", f"{volume} is already attached to an instance")


def volume_in_use_by(volume: str, instance: str) -> Ec2Error:
    return Ec2Error("VolumeInUse", f"Volume {volume} is currently attached to {instance}")


def not_available(volume: str) -> Ec2Error:
    return Ec2Error("IncorrectState", f"{volume} is not 'available'.")


def is_available(volume: str) -> Ec2Error:
    return Ec2Error("IncorrectState", f"Volume '{volume}' is in the 'available' state.")


def not_attached_so(volume: str, instance: str, device: str | None) -> Ec2Error:
    where = f"{instance}:{device}" if device else instance
    return Ec2Error("InvalidAttachment.NotFound", f"The volume '{volume}' is not attached to '{where}'.")


def instance_not_running(instance: str) -> Ec2Error:
    return Ec2Error("IncorrectState", f"Instance '{instance}' is not 'running'.")


def root_attached(volume: str, instance: str) -> Ec2Error:
    return Ec2Error("OperationNotPermitted", f"Unable to detach root volume '{volume}' from instance '{instance}'")


def zone_mismatch(volume: str, instance: str) -> Ec2Error:
    return Ec2Error(
        "InvalidVolume.ZoneMismatch",
        f"The volume '{volume}' is not in the same availability zone as instance '{instance}'",
    )


def attachment_limit(limit: int) -> Ec2Error:
    return Ec2Error(
        "AttachmentLimitExceeded",
        f"You may attach up to {limit} devices for this instance type. "
        "Please use a larger instance size to attach more volumes.",
    )


def key_not_usable(volume: str) -> Ec2Error:
    """Recorded: kubernetes#62171, kube-aws#393."""
    return Ec2Error(
        "CustomerKeyHasBeenRevoked",
        f"Volume {volume} cannot be attached. The encrypted volume was unable to access the KMS master key.",
    )


def no_card(index: int, instance_type: str) -> Ec2Error:
    return invalid_value(index, "ebsCardIndex", f"{instance_type} has no such EBS card.")


def bad_device_name(device: str) -> Ec2Error:
    return invalid_value(device, "device", f"{device} is not a valid EBS device name.")


def device_name_taken(device: str) -> Ec2Error:
    return Ec2Error(
        "InvalidParameterValue",
        f"Invalid value '{device}' for unixDevice. Attachment point {device} is already in use",
    )


def multi_attach_unsupported(instance: str) -> Ec2Error:
    return Ec2Error(
        "UnsupportedOperation", f"Multi-Attach enabled volumes are not supported on the instance type of {instance}"
    )


def multi_attach_limit(volume: str, limit: int) -> Ec2Error:
    return Ec2Error("AttachmentLimitExceeded", f"{volume} can be attached to up to {limit} instances at the same time")


def bad_token() -> Ec2Error:
    return Ec2Error("InvalidPaginationToken", "The pagination token specified in the request is invalid.")


def invalid_filter(name: str) -> Ec2Error:
    return Ec2Error("InvalidParameterValue", f"The filter '{name}' is invalid")


def token_reused() -> Ec2Error:
    return Ec2Error(
        "IdempotentParameterMismatch",
        "The client token you have provided is associated with a resource that is not identical to this request.",
    )


def not_emulated(action: str) -> Ec2Error:
    """Not one of EC2's: it has the action, and this emulator has not."""
    return Ec2Error("UnsupportedOperation", f"The emulator does not have the action {action}.", 501)


def throttled(code: str = "") -> Ec2Error:
    """EC2 throttles with 503, and some of its older front ends with 400."""
    match code:
        case "" | "RequestLimitExceeded":
            return Ec2Error("RequestLimitExceeded", "Request limit exceeded.", 503)
        case "EC2ThrottledException":
            return Ec2Error(code, "Rate exceeded", 503)
        case "Throttling" | "RequestThrottled":
            return Ec2Error(code, "Rate exceeded", 400)
    raise ValueError(f"EC2 does not throttle with {code!r}")


_STATUS_OF_CODE = {
    "AuthFailure": 401,
    "UnauthorizedOperation": 403,
    "DryRunOperation": 412,
    "InternalError": 500,
    "InternalFailure": 500,
    "Unavailable": 503,
    "ServiceUnavailable": 503,
    "RequestLimitExceeded": 503,
}


def of_code(code: str, message: str = "", status: int = 0) -> Ec2Error:
    """Any of EC2's errors, with the HTTP status that it has there."""
    return Ec2Error(code, message or f"The request failed with {code}.", status or _STATUS_OF_CODE.get(code, 400))
