"""What the errors of all clouds share: a missing SDK, and the pause that an answer requests."""

import importlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from cloudmanager.core.errors import MissingExtra


def require_sdk(modules: Sequence[str], extra: str) -> None:
    """Raises MissingExtra, which names the extra, when one of the modules cannot be imported."""
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as error:
        missing = error.name or str(error)
        raise MissingExtra(
            f"Providers of type {extra} need {missing}, which is not installed: pip install 'cloudmanager[{extra}]'"
        ) from error


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, of the header Retry-After (RFC 9110, 10.2.3): a number or a date; None where it has neither.

    Look `headers` up without regard to letter case, or in small letters.
    """
    text = headers.get("Retry-After") or headers.get("retry-after") or ""
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None
