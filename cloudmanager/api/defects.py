"""What nobody foresaw, as ASGI middleware."""

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloudmanager.api.errors import InternalError
from cloudmanager.api.problems import problem
from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.exhaustion import exhausted

log = logging.getLogger(__name__)


class DefectHandler:
    """Logs an unexpected exception with its traceback and answers without internals.

    Starlette's own handler raises the exception again, and the server then cuts the connection that the client would
    use for its next request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def watched(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if scope["type"] != "http" or has_started:
                raise  # the server cuts the connection: the client must not take half an answer for a whole one
            await problem(_known(error, f"{scope['method']} {scope['path']}"))(scope, receive, send)


def _known(error: Exception, request: str) -> CloudManagerError:
    if lacking := exhausted(error):
        log.warning("%s: %s", request, lacking.detail)
        return lacking
    log.exception("%s failed", request)
    return InternalError("This is a defect of cloudmanager; the log of the service has the details.")
