"""What can be seen without building."""

import re

from tests.checkout import ROOT
from tests.container.compose import options, service

CONTAINERFILE = (ROOT / "Containerfile").read_text()


def _needed(*purposes: str) -> set[str]:
    lines = (ROOT / "requirements/debian.txt").read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    return {package for package, _, purpose in rows if purpose in purposes}


def test_every_package_that_the_service_needs_is_in_the_image_and_is_explained() -> None:
    image = CONTAINERFILE.rpartition("FROM ")[2]
    installed = set(re.search(r"--no-install-recommends \\\n +(.*) \\\n", image).group(1).split())
    explained = {word for line in re.findall(r"(?m)^# (.{16})", image) for word in line.split()}
    assert _needed("run") <= installed
    assert installed <= explained


def test_every_capability_is_explained() -> None:
    text = (ROOT / "compose.yaml").read_text()
    for capability in service()["cap_add"]:
        assert re.search(rf"(?m)^      - {capability} # \w+", text), capability


def test_every_capability_that_doctor_asks_for_is_given() -> None:
    from cloudmanager.core.doctor.machine import CAPABILITIES

    assert {f"CAP_{name}" for name in service()["cap_add"]} == set(CAPABILITIES)


def test_every_line_of_the_service_is_one_that_the_slow_tests_run_with() -> None:
    assert "--init" in options({})
