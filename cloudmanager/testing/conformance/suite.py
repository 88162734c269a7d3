"""The whole suite."""

from cloudmanager.testing.conformance.attaching import AttachingChecks
from cloudmanager.testing.conformance.copying import CopyingChecks
from cloudmanager.testing.conformance.crashing import CrashingChecks
from cloudmanager.testing.conformance.describing import DescribingChecks
from cloudmanager.testing.conformance.detaching import DetachingChecks
from cloudmanager.testing.conformance.locating import LocatingChecks
from cloudmanager.testing.conformance.replacing import ReplacingChecks

_ERRORS_CHECK = "test_every_error_of_the_cloud_has_its_class"


class ProviderConformance(
    DescribingChecks,
    AttachingChecks,
    DetachingChecks,
    LocatingChecks,
    CrashingChecks,
    CopyingChecks,
    ReplacingChecks,
):
    """Subclass it, name the harness, and pytest runs every check."""

    def test_exceptions_are_declared_for_checks_that_exist(self) -> None:
        """A check that is renamed must not go on being left out under its old name."""
        unknown = [name for name in self.harness_type.does_not_apply if not hasattr(self, name)]
        assert unknown == []
        assert all(reason.strip() for reason in self.harness_type.does_not_apply.values())

    def test_the_errors_of_the_cloud_are_listed_or_declared_to_be_none(self) -> None:
        """Without cases, pytest would pass over the check of their classes."""
        assert self.harness_type.error_cases or _ERRORS_CHECK in self.harness_type.does_not_apply
