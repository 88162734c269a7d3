"""List filters: `name eq REGEX`, or AIP-160 comparisons with `=` and `!=` that are joined by AND.

Compute Engine does not let the two styles be mixed, nor regular expressions be combined; neither do we. What this
emulator does not know it refuses rather than ignore.
"""

import re
from collections.abc import Callable, Mapping

from cloudmanager.testing.cloud.gce.errors import invalid

Document = Mapping[str, object]
Test = Callable[[Document], bool]
_REGEX = re.compile(r"""(?P<field>[\w.-]+)\s+(?P<operator>eq|ne)\s+(?P<value>"[^"]*"|'[^']*'|\S+)""")
_COMPARISON = re.compile(r"""\s*(?P<field>[\w.-]+)\s*(?P<operator>!=|=)\s*(?P<value>"[^"]*"|'[^']*'|[^\s()]+)\s*""")
_FIELDS = frozenset({"name", "status", "operationType", "targetId", "targetLink", "zone", "sizeGb", "id"})


def parse(text: str) -> Test:
    """Raises Refusal for an expression that Compute Engine would not take, or that is not known here."""
    if not text:
        return lambda _: True
    if found := _REGEX.fullmatch(text.strip()):
        return _regex_test(found, text)
    tests = [_comparison_test(part, text) for part in _parts(text)]
    return lambda document: all(test(document) for test in tests)


def _parts(text: str) -> list[str]:
    """`(a = b) (c = d)`, `(a = b) AND (c = d)` or `a = b`."""
    if not text.lstrip().startswith("("):
        return [text]
    parts = re.findall(r"\(([^()]*)\)", text)
    rest = re.sub(r"\([^()]*\)", "", text).replace("AND", "")
    if rest.strip():
        raise _refused(text)
    return parts


def _regex_test(found: re.Match[str], text: str) -> Test:
    try:
        pattern = re.compile(found["value"].strip("\"'"))
    except re.error:
        raise _refused(text) from None
    field, wanted = _known(found["field"], text), found["operator"] == "eq"
    return lambda document: (pattern.fullmatch(_value(document, field)) is not None) is wanted


def _comparison_test(part: str, text: str) -> Test:
    found = _COMPARISON.fullmatch(part)
    if found is None:
        raise _refused(text)
    field, value, wanted = _known(found["field"], text), found["value"].strip("\"'"), found["operator"] == "="
    return lambda document: (_value(document, field) == value) is wanted


def _known(field: str, text: str) -> str:
    if field not in _FIELDS and not field.startswith("labels."):
        raise _refused(text)
    return field


def _value(document: Document, field: str) -> str:
    if field.startswith("labels."):
        labels = document.get("labels")
        return str(labels.get(field.removeprefix("labels."), "")) if isinstance(labels, dict) else ""
    return str(document.get(field, ""))


def _refused(text: str) -> Exception:
    return invalid("filter", text, "Invalid list filter expression.")
