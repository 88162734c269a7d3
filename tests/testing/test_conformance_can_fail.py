"""Every check of the conformance suite fails for a provider that has the defect which it is there to find."""

import inspect
from pathlib import Path
from typing import Any

import pytest

from cloudmanager.core.errors import CloudManagerError, ProviderFailure
from cloudmanager.core.hookspecs import hookimpl
from cloudmanager.testing.conformance import Harness, ProviderConformance, Trouble
from tests.providers.gce.harness import GceHarness
from tests.testing.broken import ALL, Broken

CASES = [(provider, check) for provider in ALL for check in provider.fails]
EVERY = 4
"""One in so many cases runs in every run of the tests, the others with the slow ones."""
ABOUT_HARNESSES: dict[str, dict[str, Any]] = {
    "test_exceptions_are_declared_for_checks_that_exist": {"does_not_apply": {"test_that_was_renamed": "no cloud"}},
    "test_the_errors_of_the_cloud_are_listed_or_declared_to_be_none": {"error_cases": ()},
}


class OnePlugin:
    """A plugin that offers a single provider type."""

    def __init__(self, provider: type[Broken]) -> None:
        self._provider = provider

    @hookimpl
    def register_providers(self) -> list[type]:
        return [self._provider]


def harness_of(provider: type[Broken]) -> type[GceHarness]:
    return type(f"{provider.__name__}Harness", (GceHarness,), {"plugin": OnePlugin(provider)})


def parameters_of(check: str) -> dict[str, Any]:
    """What pytest would give the check for the id in brackets."""
    _, bracket, case = check.rstrip("]").partition("[")
    if not bracket:
        return {}
    by_id = {trouble.name.lower(): {"trouble": trouble} for trouble in Trouble}
    errors = {case.name.replace(" ", "-"): {"error_case": case} for case in GceHarness.error_cases}
    return (by_id | errors)[case]


def run(check: str, harness: Harness) -> None:
    getattr(ProviderConformance(), check.partition("[")[0])(harness, **parameters_of(check))


@pytest.mark.parametrize(
    ("provider", "check"),
    [
        pytest.param(*case, id=f"{case[0].__name__}-{case[1][5:]}", marks=[pytest.mark.slow] * bool(number % EVERY))
        for number, case in enumerate(CASES)
    ],
)
def test_a_broken_provider_fails_its_check(provider: type[Broken], check: str, tmp_path: Path) -> None:
    failures = (AssertionError, pytest.fail.Exception, CloudManagerError)
    with harness_of(provider)(tmp_path) as harness, pytest.raises(failures) as caught:
        run(check, harness)
    assert not isinstance(caught.value, ProviderFailure), "the defect is another one than was meant"


def test_every_check_has_a_provider_that_fails_it() -> None:
    checks = {name for name, _ in inspect.getmembers(ProviderConformance, inspect.isfunction) if name[:5] == "test_"}
    caught = {check.partition("[")[0] for _, check in CASES}
    assert checks - caught == set(ABOUT_HARNESSES)
    assert caught <= checks


@pytest.mark.parametrize("check", ABOUT_HARNESSES)
def test_a_harness_that_leaves_checks_out_silently_fails(check: str) -> None:
    careless = type("Careless", (GceHarness,), ABOUT_HARNESSES[check])
    suite = type("Suite", (ProviderConformance,), {"harness_type": careless})()
    with pytest.raises(AssertionError):
        getattr(suite, check)()
