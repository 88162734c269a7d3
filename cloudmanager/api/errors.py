"""What the HTTP interface itself refuses, before or instead of asking the core.

CloudManagerError
├── InvalidRequest
│   ├── MalformedRequest        it cannot be read: not JSON, not UTF-8
│   ├── InvalidFields           it can be read, and fields or parameters are wrong
│   ├── MethodNotAllowed
│   ├── RequestTooLarge
│   └── UnsupportedMediaType
├── NotFound
│   └── RouteNotFound
├── Unauthorized                no token, or an unknown one
├── HostRefused                 called by a name that is not this machine's
├── OriginRefused               called by a page of another site
└── InternalError               a defect
"""

from dataclasses import dataclass

from cloudmanager.core.errors import CloudManagerError, InvalidRequest, NotFound


class MalformedRequest(InvalidRequest):
    code = "malformed_request"
    title = "The request cannot be read"


@dataclass(frozen=True)
class Mistake:
    """One wrong field of the body (`pointer`, a JSON pointer as a URI fragment) or one wrong parameter."""

    detail: str
    pointer: str | None = None
    parameter: str | None = None

    def __str__(self) -> str:
        where = self.parameter or (self.pointer or "").removeprefix("#/")
        return f"{where}: {self.detail}" if where else self.detail


class InvalidFields(InvalidRequest):
    """Has the code of InvalidRequest: a client treats both alike."""

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__(" ".join(map(str, mistakes)))
        self.mistakes = mistakes


class MethodNotAllowed(InvalidRequest):
    code = "method_not_allowed"
    title = "The route does not have this method"


class RequestTooLarge(InvalidRequest):
    code = "request_too_large"
    title = "The request is too large"


class UnsupportedMediaType(InvalidRequest):
    code = "unsupported_media_type"
    title = "The body is not announced as JSON"


class RouteNotFound(NotFound):
    code = "route_not_found"
    title = "There is no such route"


class Unauthorized(CloudManagerError):
    code = "unauthorized"
    title = "A valid bearer token is needed"


class HostRefused(CloudManagerError):
    code = "host_refused"
    title = "The service is not known by this name"


class OriginRefused(CloudManagerError):
    code = "origin_refused"
    title = "A page of another site may not use the service"


class InternalError(CloudManagerError):
    code = "internal_error"
    title = "Something went wrong in the service"
