"""The actions of EC2 that disks need: each takes a request's parameters and gives the members of the answer."""

from collections.abc import Callable, Mapping

from cloudmanager.testing.cloud.ec2 import describing, errors, state, views
from cloudmanager.testing.cloud.ec2.context import RequestContext
from cloudmanager.testing.cloud.ec2.lifecycle import Lifecycle
from cloudmanager.testing.cloud.ec2.new_volume import check_kind, size_of, zone_of
from cloudmanager.testing.cloud.ec2.schema import Members, Parameters, pairs, tags_for
from cloudmanager.testing.cloud.ec2.state import Attachment, Scope, State, Volume, VolumeState

Action = Callable[[RequestContext], Members]


class Actions:
    """Its callers hold the lock of `state`."""

    def __init__(self, state: State, lifecycle: Lifecycle) -> None:
        self._state = state
        self._lifecycle = lifecycle
        self._made: dict[tuple[Scope, str], tuple[Members, str]] = {}
        """By client token: the request, and the volume that it made."""
        self.by_name: Mapping[str, Action] = {
            "AttachVolume": self._attach_volume,
            "CreateSnapshot": self._create_snapshot,
            "CreateTags": self._create_tags,
            "CreateVolume": self._create_volume,
            "DeleteSnapshot": self._delete_snapshot,
            "DeleteVolume": self._delete_volume,
            "DescribeAvailabilityZones": describing.zones,
            "DescribeInstanceTypes": describing.instance_types,
            "DescribeInstances": describing.instances,
            "DescribeRegions": describing.regions,
            "DescribeSnapshots": describing.snapshots,
            "DescribeVolumes": describing.volumes,
            "DetachVolume": self._detach_volume,
        }

    def _attach_volume(self, request: RequestContext) -> Members:
        parameters = request.parameters
        volume = state.volume(self._state, request.scope, parameters.text("VolumeId"))
        instance = state.instance(self._state, request.scope, parameters.text("InstanceId"))
        card = parameters.number("EbsCardIndex") or 0
        attached = self._lifecycle.attach(volume, instance, parameters.text("Device"), request.fault, card=card)
        return views.attachment(attached)

    def _detach_volume(self, request: RequestContext) -> Members:
        parameters = request.parameters
        volume = state.volume(self._state, request.scope, parameters.text("VolumeId"))
        if parameters.optional("InstanceId"):
            state.instance(self._state, request.scope, parameters.text("InstanceId"))
        if not volume.attachments:
            raise errors.is_available(volume.id)
        attachment = _wanted(volume, parameters)
        self._refuse_root(attachment)
        answer = self._lifecycle.detach(attachment, request.fault, force=parameters.flag("Force"))
        return views.attachment(answer)

    def _refuse_root(self, attachment: Attachment) -> None:
        instance = self._state.instances[attachment.instance_id]
        if attachment.device == views.ROOT_DEVICE and instance.state.value == "running":
            raise errors.root_attached(attachment.volume_id, instance.id)

    def _create_volume(self, request: RequestContext) -> Members:
        parameters, token = request.parameters, request.parameters.optional("ClientToken")
        if token and (request.scope, token) in self._made:
            return views.volume(self._made_before(request, token))
        volume = self._new_volume(request.scope, parameters)
        self._lifecycle.finish_later(volume, request.fault)
        if token:
            self._made[request.scope, token] = (parameters.values, volume.id)
        return views.volume(volume)

    def _made_before(self, request: RequestContext, token: str) -> Volume:
        earlier, made = self._made[request.scope, token]
        if earlier != request.parameters.values:
            raise errors.token_reused()
        return state.volume(self._state, request.scope, made)

    def _new_volume(self, scope: Scope, parameters: Parameters) -> Volume:
        kind = parameters.optional("VolumeType") or "gp2"
        check_kind(kind, parameters)
        zone = zone_of(scope, parameters)
        snapshot_id = parameters.optional("SnapshotId")
        snapshot = state.snapshot(self._state, scope, snapshot_id) if snapshot_id else None
        if snapshot is not None and snapshot.state.value != "completed":
            raise errors.Ec2Error("IncorrectState", f"Snapshot is in invalid state - {snapshot.state.value}")
        return self._lifecycle.make_volume(
            scope,
            zone,
            size_of(kind, parameters, snapshot),
            kind,
            tags=tags_for(parameters, "volume"),
            source=snapshot.backing if snapshot else None,
            snapshot_id=snapshot.id if snapshot else "",
            iops=parameters.number("Iops"),
            is_encrypted=parameters.flag("Encrypted"),
            is_multi_attach=parameters.flag("MultiAttachEnabled"),
        )

    def _delete_volume(self, request: RequestContext) -> Members:
        volume = state.volume(self._state, request.scope, request.parameters.text("VolumeId"))
        self._lifecycle.delete(volume, request.fault)
        return {}

    def _create_snapshot(self, request: RequestContext) -> Members:
        parameters = request.parameters
        volume = state.volume(self._state, request.scope, parameters.text("VolumeId"))
        if volume.state in (VolumeState.CREATING, VolumeState.DELETING, VolumeState.ERROR):
            raise errors.Ec2Error("IncorrectState", f"The volume '{volume.id}' is in state '{volume.state}'.")
        description = parameters.optional("Description") or ""
        return views.snapshot(
            self._lifecycle.snapshot(volume, description, tags_for(parameters, "snapshot"), request.fault)
        )

    def _delete_snapshot(self, request: RequestContext) -> Members:
        snapshot = state.snapshot(self._state, request.scope, request.parameters.text("SnapshotId"))
        del self._state.snapshots[snapshot.id]
        snapshot.backing.unlink()
        return {}

    def _create_tags(self, request: RequestContext) -> Members:
        new = pairs(request.parameters.structures("Tags"))
        tagged = [self._tags_of(request.scope, resource) for resource in request.parameters.texts("Resources")]
        for tags in tagged:
            tags.update(new)
        return {}

    def _tags_of(self, scope: Scope, resource: str) -> dict[str, str]:
        kind = resource.partition("-")[0]
        if kind == "vol":
            return state.volume(self._state, scope, resource).tags
        if kind == "snap":
            return state.snapshot(self._state, scope, resource).tags
        if kind == "i":
            return state.instance(self._state, scope, resource).tags
        raise errors.Ec2Error("InvalidID", f"The ID '{resource}' is not valid")


def _wanted(volume: Volume, parameters: Parameters) -> Attachment:
    """The attachment that a DetachVolume means."""
    instance_id, device = parameters.optional("InstanceId"), parameters.optional("Device")
    if instance_id is None and len(volume.attachments) > 1:
        raise errors.missing_parameter("instanceId")
    for attachment in volume.attachments:
        if instance_id in (None, attachment.instance_id) and device in (None, attachment.device):
            return attachment
    raise errors.not_attached_so(volume.id, instance_id or "", device)
