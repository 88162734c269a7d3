"""Where a disk of EBS or Azure is, as a descriptor says and as the provider's answer says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from cloudmanager.client.errors import DiskNotFound
from cloudmanager.client.model import Disk
from cloudmanager.client.openrelik import Descriptor, DiskNotNamed
from cloudmanager.client.openrelik.naming import disk_id
from tests.client.openrelik.conftest import Describe

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"


def disk(id: str, canonical_id: str, location: str, **labels: str) -> Disk:
    return Disk(id, canonical_id, 1 << 30, "raw", location, "", labels, (), (), (), None, None)


def managed(group: str, location: str, name: str = "Evidence-7") -> Disk:
    path = f"/subscriptions/{SUBSCRIPTION}/resourcegroups/{group}/providers/microsoft.compute/disks/{name.casefold()}"
    return disk(f"az:{group}/{name}", f"azure:/{path}", location)


def volume(number: str, region: str, zone: str, **labels: str) -> Disk:
    native = f"vol-{number:0>17}"
    return disk(f"ebs:{native}", f"aws://{region}/{native}", zone, **labels)


@dataclass
class Service:
    """Answers as a service with these disks would; it finds a disk by its full name only."""

    known: list[Disk]

    def providers(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="az", type="azure"), SimpleNamespace(name="ebs", type="aws")]

    def disk(self, name: str) -> Disk:
        for each in self.known:
            if each.id.casefold() == name.casefold():
                return each
        raise DiskNotFound(f"There is no {name}.", status=404)

    def disks(self, _text: str, *, provider: str) -> Iterator[Disk]:
        return (each for each in self.known if each.id.startswith(f"{provider}:"))


AZURE = [managed("one", "westeurope-1"), managed("two", "westeurope-2"), managed("three", "northeurope")]
EBS = [
    volume("1", "us-east-1", "us-east-1a", Name="evidence"),
    volume("2", "us-east-1", "us-east-1b", Name="evidence"),
    volume("3", "eu-west-1", "eu-west-1a", Name="Other"),
]


@pytest.mark.parametrize(
    ("data_type", "content", "expected"),
    [
        ("cloud:azure:disk", {"disk_name": "evidence-7", "resource_group": "TWO"}, "az:two/Evidence-7"),
        ("cloud:azure:disk", {"disk_name": "evidence-7", "location": "northeurope"}, "az:three/Evidence-7"),
        ("cloud:azure:disk", {"disk_name": "evidence-7", "region": "westeurope", "zone": "1"}, "az:one/Evidence-7"),
        ("cloud:azure:disk", {"disk_name": "one/evidence-7", "subscription_id": SUBSCRIPTION}, "az:one/Evidence-7"),
        ("cloud:azure:disk", {"disk_name": "evidence-7", "location": "westeurope"}, None),
        ("cloud:azure:disk", {"disk_name": "evidence-7"}, None),
        ("cloud:azure:disk", {"disk_name": "evidence-7", "resource_group": "one", "location": "northeurope"}, None),
        ("cloud:azure:disk", {"disk_name": "one/evidence-7", "subscription": SUBSCRIPTION.replace("1", "9")}, None),
        ("cloud:aws:disk", {"disk_name": "evidence"}, None),
        ("cloud:aws:disk", {"disk_name": "evidence", "availability_zone": "us-east-1b"}, EBS[1].id),
        ("cloud:aws:disk", {"disk_name": "other"}, EBS[2].id),
        ("cloud:aws:disk", {"disk_name": EBS[0].id.removeprefix("ebs:")}, EBS[0].id),
        ("cloud:aws:disk", {"disk_name": EBS[0].id.removeprefix("ebs:"), "zone": "us-east-1b"}, None),
    ],
)
def test_exactly_one_disk_fits_or_none_is_taken(
    describe: Describe, data_type: str, content: dict[str, str], expected: str | None
) -> None:
    descriptor = Descriptor.read(describe(data_type, content))
    service = Service([*AZURE, *EBS])
    if expected is None:
        with pytest.raises(DiskNotNamed):
            disk_id(service, descriptor)  # type: ignore[arg-type] # it is asked for no more than this
    else:
        assert disk_id(service, descriptor) == expected  # type: ignore[arg-type]


def test_one_disk_that_two_providers_see_is_one(describe: Describe) -> None:
    seen_twice = [*AZURE[:1], managed("one", "westeurope-1")]
    descriptor = Descriptor.read(describe("cloud:azure:disk", {"disk_name": "evidence-7"}))
    assert disk_id(Service(seen_twice), descriptor) == "az:one/Evidence-7"  # type: ignore[arg-type]
