"""Puts the HTTP interface together."""

from functools import cache
from typing import Any

from fastapi import FastAPI, Request, Response

import cloudmanager
from cloudmanager.api import metrics, problems
from cloudmanager.api.async_manager import AsyncManager
from cloudmanager.api.docs_page import CONTENT_SECURITY_POLICY, docs_page
from cloudmanager.api.guard import CallerGuard
from cloudmanager.api.middleware import DefectHandler, Gate, RequestCounter
from cloudmanager.api.openapi import document
from cloudmanager.api.routes import router
from cloudmanager.core.manager import Manager
from cloudmanager.core.settings import Settings


def create_app(manager: Manager, settings: Settings) -> FastAPI:
    """The app for a manager that runs. Whoever made the manager starts and closes it."""
    numbers = metrics.Metrics(manager)
    app = FastAPI(
        title="cloudmanager",
        version=cloudmanager.__version__,
        summary="Any disk, in any cloud, as one NBD address",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        routes=[*router.routes],
    )
    app.state.async_manager = AsyncManager(manager, numbers.ready_seconds.observe)
    _add_pages(app, numbers, settings)
    problems.install(app)
    app.add_middleware(DefectHandler)
    app.add_middleware(Gate, guard=CallerGuard.of(settings.server))
    app.add_middleware(RequestCounter, metrics=numbers)
    return app


def _add_pages(app: FastAPI, numbers: metrics.Metrics, settings: Settings) -> None:
    """Routes for browsers and for Prometheus, which are not in the OpenAPI document."""

    @cache
    def openapi() -> dict[str, Any]:
        return document(app, settings)

    async def docs(request: Request) -> Response:
        page = docs_page(openapi(), str(request.base_url).rstrip("/"))
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})

    async def prometheus(request: Request) -> Response:
        async_manager: AsyncManager = request.app.state.async_manager
        return Response(await async_manager.run(numbers.text), media_type=metrics.MEDIA_TYPE)

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's documented way to extend the document
    app.add_api_route("/docs", docs, include_in_schema=False)
    app.add_api_route("/metrics", prometheus, include_in_schema=False)
