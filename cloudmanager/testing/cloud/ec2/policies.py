"""What IAM policies allow: statements that allow actions on resources, some of them only with certain tags.

https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html says for each action which
resources it is checked against. Every one of them must be allowed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from cloudmanager.testing.cloud.ec2.schema import Parameters
from cloudmanager.testing.cloud.ec2.state import Scope, State

Policy = Mapping[str, Any]
"""A policy document, as read from JSON."""
_EVERY_OPERATOR = frozenset({"StringEquals"})


@dataclass(frozen=True)
class _Resource:
    arn: str
    keys: Mapping[str, str] = field(default_factory=dict)
    """Condition keys and their values."""


def allows(policies: Iterable[Policy], action: str, scope: Scope, parameters: Parameters, state: State) -> bool:
    """Raises ValueError for what is not emulated."""
    statements = [statement for policy in policies for statement in policy["Statement"]]
    needed = [(action, resource) for resource in _resources(action, scope, parameters, state)]
    if parameters.has("TagSpecifications"):
        created = {"ec2:CreateAction": action}
        needed += [("CreateTags", _Resource(resource.arn, created)) for _, resource in needed if "/*" in resource.arn]
    return all(any(_matches(each, name, resource) for each in statements) for name, resource in needed)


def _resources(action: str, scope: Scope, parameters: Parameters, state: State) -> Iterator[_Resource]:
    """What is about to be made has no id yet."""
    where = f"arn:aws:ec2:{scope.region}:{scope.account}:"
    if action.startswith("Describe"):
        yield _Resource("*")
        return
    volume, instance = parameters.optional("VolumeId"), parameters.optional("InstanceId")
    snapshot = parameters.optional("SnapshotId")
    if volume:
        tags = state.volumes[volume].tags if volume in state.volumes else {}
        yield _Resource(f"{where}volume/{volume}", _tagged(tags))
    if instance:
        tags = state.instances[instance].tags if instance in state.instances else {}
        yield _Resource(f"{where}instance/{instance}", _tagged(tags))
    if snapshot:
        tags = state.snapshots[snapshot].tags if snapshot in state.snapshots else {}
        yield _Resource(f"arn:aws:ec2:{scope.region}::snapshot/{snapshot}", _tagged(tags))
    if action == "CreateVolume":
        yield _Resource(f"{where}volume/*")
    if action == "CreateSnapshot":
        yield _Resource(f"arn:aws:ec2:{scope.region}::snapshot/*")


def _tagged(tags: Mapping[str, str]) -> dict[str, str]:
    return {f"aws:ResourceTag/{key}": value for key, value in tags.items()}


def _matches(statement: Mapping[str, Any], action: str, resource: _Resource) -> bool:
    if statement["Effect"] != "Allow":
        raise ValueError("only statements that allow are emulated")
    return (
        any(fnmatchcase(f"ec2:{action}", each) for each in _list(statement["Action"]))
        and any(each == "*" or fnmatchcase(resource.arn, each) for each in _list(statement["Resource"]))
        and _fulfils(statement.get("Condition", {}), resource.keys)
    )


def _fulfils(condition: Mapping[str, Mapping[str, Any]], keys: Mapping[str, str]) -> bool:
    if unknown := set(condition) - _EVERY_OPERATOR:
        raise ValueError(f"conditions with {', '.join(sorted(unknown))} are not emulated")
    return all(keys.get(key) in _list(wanted) for each in condition.values() for key, wanted in each.items())


def _list(value: object) -> Sequence[str]:
    return [value] if isinstance(value, str) else list(value)  # type: ignore[call-overload] # from JSON
