"""Providers with one defect each, by the group of checks that must find it."""

from tests.testing.broken import attaching, copying, describing, detaching, locating, replacing
from tests.testing.broken.provider import ALL, Broken

__all__ = ["ALL", "Broken", "attaching", "copying", "describing", "detaching", "locating", "replacing"]
