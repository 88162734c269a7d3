"""What oslo.utils' format inspector has to say about an image, next to our own reading.

It is OpenStack's answer to the same attacks (CVE-2024-32498). Only its qcow2 and vmdk inspectors check anything. Our
own reader refuses all that this one does, and more; two that were written apart rarely err alike. It costs 7 MB of
memory and a tenth of a second to import, so it is imported when the first such image is seen. The service always has
it, a client where it is installed (the extra `deploy`).
"""

import logging
from collections.abc import Iterable
from typing import Protocol

from cloudmanager.images.errors import DamagedImage


class _Inspector(Protocol):
    def eat_chunk(self, chunk: bytes) -> None: ...
    def finish(self) -> None: ...
    def safety_check(self) -> None: ...


def refusals(format_name: str, chunks: Iterable[bytes]) -> dict[str, str]:
    """Its objections as {name of the check: reason}, given the parts of the file that its inspector looks at.

    Raises DamagedImage where it cannot parse the image.
    """
    try:
        from oslo_utils.imageutils import format_inspector  # noqa: PLC0415 - slow, and most images are raw
    except ModuleNotFoundError:
        return {}
    # It would warn about each objection, the ones that we allow included; the others are in the error that we raise.
    format_inspector.LOG.setLevel(logging.CRITICAL)
    inspector: _Inspector = format_inspector.ALL_FORMATS[format_name]()
    try:
        for chunk in chunks:
            inspector.eat_chunk(chunk)
        inspector.finish()
        inspector.safety_check()
    except format_inspector.SafetyCheckFailed as failed:
        return {name: str(reason) for name, reason in failed.failures.items()}
    except Exception as error:
        # Whatever its parser trips over (struct.error, AttributeError…) is a header that makes no sense.
        raise DamagedImage(f"The image is damaged: its {format_name} header cannot be parsed ({error}).") from error
    return {}
