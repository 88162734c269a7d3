"""Tags as requests give them."""

from collections.abc import Iterable

from cloudmanager.testing.cloud.ec2 import errors
from cloudmanager.testing.cloud.ec2.schema import Parameters


def tags_for(asked: Parameters, resource: str) -> dict[str, str]:
    """From TagSpecifications: those for the resource that is made; a specification for another one is an error."""
    tags: dict[str, str] = {}
    for specification in asked.structures("TagSpecifications"):
        if specification.optional("ResourceType") != resource:
            kind = specification.optional("ResourceType")
            raise errors.invalid_value(kind, "resourceType", f"'{kind}' is not a valid taggable resource type here.")
        tags |= pairs(specification.structures("Tags"))
    return tags


def pairs(tags: Iterable[Parameters]) -> dict[str, str]:
    return {tag.text("Key"): tag.optional("Value") or "" for tag in tags}
