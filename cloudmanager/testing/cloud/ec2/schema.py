"""Requests read, and answers written, by botocore's model of the service.

The EC2 query protocol: a form-encoded request with flattened keys (`Filter.1.Value.2=x`), an XML answer. A parameter
that the model does not know, one that lacks, has the wrong type or is not in its enumeration is refused, as EC2 does:
botocore checks no enumerations, and other clients check nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import cast
from xml.etree import ElementTree

from botocore.loaders import Loader
from botocore.model import ListShape, OperationModel, ServiceModel, Shape, StructureShape

from cloudmanager.testing.cloud.ec2 import errors

Value = str | int | float | bool | datetime | None | Sequence["Value"] | Mapping[str, "Value"]
"""What a parameter or a member of an answer may be."""
Members = Mapping[str, Value]


@cache
def service_model(service: str) -> ServiceModel:
    """`ec2` or `sts`, as boto3 itself reads it."""
    return ServiceModel(Loader().load_service_model(service, "service-2"), service)


def operation(service: str, action: str | None) -> OperationModel:
    """Raises MissingAction and InvalidAction."""
    if not action:
        raise errors.Ec2Error("MissingAction", "The request must contain the parameter Action")
    model = service_model(service)
    if action not in model.operation_names:
        raise errors.invalid_action(action)
    return model.operation_model(action)


def parse_request(model: OperationModel, form: Mapping[str, str]) -> dict[str, Value]:
    """The parameters of a request, named as in the model. Raises the error that EC2 would answer."""
    rest = {name: text for name, text in form.items() if name not in ("Action", "Version")}
    if model.input_shape is None:
        parameters: dict[str, Value] = {}
    else:
        parameters = _read_structure(model.input_shape, "", rest)
    for name in rest:
        raise errors.unknown_parameter(name)
    return parameters


def _read(shape: Shape, name: str, rest: dict[str, str]) -> Value:
    """Takes what belongs to `name` out of `rest`; None where there is nothing."""
    if isinstance(shape, StructureShape):
        return _read_structure(shape, f"{name}.", rest) if _has(name, rest) else None
    if isinstance(shape, ListShape):
        return _read_list(shape, name, rest)
    return _read_scalar(shape, name, rest.pop(name)) if name in rest else None


def _read_structure(shape: StructureShape, prefix: str, rest: dict[str, str]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for member, inner in shape.members.items():
        value = _read(inner, prefix + _request_name(inner, member), rest)
        if value is not None:
            values[member] = value
    for member in shape.required_members:
        if member not in values:
            raise errors.missing_parameter(prefix + _wire_name(shape.members[member], member))
    return values


def _read_list(shape: ListShape, name: str, rest: dict[str, str]) -> Value:
    if not _has(name, rest):
        return None
    rest.pop(name, None)  # an empty list is sent as an empty value
    return [_read(shape.member, f"{name}.{index}", rest) for index in _indexes(name, rest)]


def _indexes(name: str, rest: Mapping[str, str]) -> list[str]:
    found = {key.removeprefix(f"{name}.").split(".")[0] for key in rest if key.startswith(f"{name}.")}
    return sorted((index for index in found if index.isdecimal()), key=int)


def _has(name: str, rest: Mapping[str, str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for key in rest)


def _read_scalar(shape: Shape, name: str, text: str) -> Value:
    shown = name[:1].lower() + name[1:]
    value = _converted(shape.type_name, shown, text)
    allowed = shape.metadata.get("enum")
    if allowed and value not in allowed:
        raise errors.invalid_value(text, shown)
    _check_range(shape, shown, value)
    return value


def _converted(type_name: str, shown: str, text: str) -> Value:
    if type_name == "boolean":
        if text not in ("true", "false"):
            raise errors.invalid_value(text, shown, "Expected a boolean: true or false.")
        return text == "true"
    if type_name in ("integer", "long"):
        if not text.removeprefix("-").isdecimal():
            raise errors.invalid_value(text, shown, "Expected an integer.")
        return int(text)
    return text


def _check_range(shape: Shape, shown: str, value: Value) -> None:
    if not isinstance(value, int):
        return
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if (least is not None and value < least) or (most is not None and value > most):
        raise errors.invalid_value(value, shown, f"Expected a value from {least} to {most}.")


def _wire_name(shape: Shape, member: str) -> str:
    name = shape.serialization.get("name", member)
    return cast(str, name[:1].lower() + name[1:])


def _request_name(shape: Shape, member: str) -> str:
    """In requests a name is capitalised, also where the model writes it with a small letter."""
    name = shape.serialization.get("queryName") or shape.serialization.get("name", member)
    return cast(str, name[:1].upper() + name[1:])


@dataclass(frozen=True)
class Parameters:
    """The parameters of one request, read with their types."""

    values: Members

    def text(self, name: str) -> str:
        return cast(str, self.values[name])

    def optional(self, name: str) -> str | None:
        return cast("str | None", self.values.get(name))

    def number(self, name: str) -> int | None:
        return cast("int | None", self.values.get(name))

    def has(self, name: str) -> bool:
        return name in self.values

    def flag(self, name: str) -> bool:
        return bool(self.values.get(name))

    def texts(self, name: str) -> list[str]:
        return cast("list[str]", self.values.get(name) or [])

    def structures(self, name: str) -> Iterator["Parameters"]:
        for item in cast("list[Members]", self.values.get(name) or []):
            yield Parameters(item)


def answer(model: OperationModel, request_id: str, members: Members) -> bytes:
    """The body of a successful answer. A member that the model does not know is a mistake of the emulator: KeyError."""
    namespace = model.service_model.metadata["xmlNamespace"]
    root = ElementTree.Element(f"{model.name}Response", xmlns=namespace)
    if model.service_model.metadata["protocol"] == "query":
        result = ElementTree.SubElement(root, f"{model.name}Result")
        metadata = ElementTree.SubElement(root, "ResponseMetadata")
        ElementTree.SubElement(metadata, "RequestId").text = request_id
    else:
        ElementTree.SubElement(root, "requestId").text = request_id
        result = root
    if model.output_shape is None:
        ElementTree.SubElement(result, "return").text = "true"
    else:
        _write_structure(result, model.output_shape, members)
    return _document(root)


def _write_structure(parent: ElementTree.Element, shape: StructureShape, members: Members) -> None:
    for member, value in members.items():
        inner = shape.members[member]
        if value is not None:
            _write(parent, inner.serialization.get("name", member), inner, value)


def _write(parent: ElementTree.Element, name: str, shape: Shape, value: Value) -> None:
    element = ElementTree.SubElement(parent, name)
    if isinstance(shape, StructureShape):
        _write_structure(element, shape, cast(Members, value))
    elif isinstance(shape, ListShape):
        for item in cast("Sequence[Value]", value):
            _write(element, shape.member.serialization.get("name", "item"), shape.member, item)
    else:
        element.text = _written(value)


def _written(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03d}Z"
    return str(value)


def error_answer(error: errors.Ec2Error, request_id: str) -> bytes:
    root = ElementTree.Element("Response")
    container = ElementTree.SubElement(ElementTree.SubElement(root, "Errors"), "Error")
    ElementTree.SubElement(container, "Code").text = error.code
    ElementTree.SubElement(container, "Message").text = error.message
    ElementTree.SubElement(root, "RequestID").text = request_id
    return _document(root)


def _document(root: ElementTree.Element) -> bytes:
    encoded: bytes = ElementTree.tostring(root, encoding="utf-8")
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + encoded


def tags_for(parameters: Parameters, resource: str) -> dict[str, str]:
    """From TagSpecifications: those for the resource that is made; a specification for another one is an error."""
    tags: dict[str, str] = {}
    for specification in parameters.structures("TagSpecifications"):
        if specification.optional("ResourceType") != resource:
            kind = specification.optional("ResourceType")
            raise errors.invalid_value(kind, "resourceType", f"'{kind}' is not a valid taggable resource type here.")
        tags |= pairs(specification.structures("Tags"))
    return tags


def pairs(tags: Iterable[Parameters]) -> dict[str, str]:
    return {tag.text("Key"): tag.optional("Value") or "" for tag in tags}
