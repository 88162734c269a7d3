"""A policy: the disks of the provider `evidence` are never written, and read for a case only."""

import re

from cloudmanager import Access, ExportRequest, errors, hookimpl

CASE = re.compile(r"case-\d+(/.+)?")


@hookimpl
def authorize(provider: str, request: ExportRequest) -> None:
    if provider != "evidence":
        return
    if request.access is Access.READ_WRITE:
        raise errors.Refused(f"{request.disk.id} is evidence and never written: ask for read-only or scratch access.")
    if not CASE.fullmatch(request.holder):
        raise errors.Refused(f"{request.holder!a} names no case: ask for evidence as the holder case-NUMBER/WHO.")
