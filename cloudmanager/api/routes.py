"""The routes: parse, ask the façade, answer."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response

from cloudmanager.api import answers, problems, requests
from cloudmanager.api import errors as http
from cloudmanager.api.async_manager import AsyncManager
from cloudmanager.api.problems import documented
from cloudmanager.api.requests import WaitSeconds
from cloudmanager.core import errors as core
from cloudmanager.core.model import MAX_KEY_LENGTH
from cloudmanager.transfer.digests import BLOCK_BYTES
from cloudmanager.transfer.frames import MEDIA_TYPE


async def _refuse_unknown_parameters(request: Request) -> None:
    """`POST /v1/exports?access=read-write` would give a read-only export: what is ignored may have been meant.

    Routes with parameters of their own refuse the others by their model. What monitors call takes anything.
    """
    route = request.scope["route"]
    if request.query_params and route.path.startswith("/v1/") and not route.dependant.query_params:
        names = list(dict.fromkeys(request.query_params))[: problems.MAX_MISTAKES]
        detail = "This route has no such parameter."
        raise http.InvalidFields(tuple(http.Mistake(detail, parameter=name[:80]) for name in names))


router = APIRouter(
    generate_unique_id_function=lambda route: route.name, dependencies=[Depends(_refuse_unknown_parameters)]
)

EVERY_ROUTE = (
    *(http.MalformedRequest, http.Unauthorized, http.OriginRefused, http.HostRefused, http.InternalError),
    core.ShuttingDown,
)
STORE = (
    *(*EVERY_ROUTE, core.InvalidRequest),
    *(core.StoreUnavailable, core.StoreFull, core.StoreReadOnly, core.StoreLocked, core.StoreDamaged),
)
EXPORT = (*STORE, core.ExportNotFound)
BODY = (http.RequestTooLarge, http.UnsupportedMediaType)
PROVIDER = (
    *(core.ProviderNotFound, core.CloudError, core.AccessDenied, core.ProviderFailure),
    *(core.Throttled, core.CloudUnavailable),
)
DISK = (
    *(core.InvalidDiskId, core.AmbiguousDisk, core.DiskNotFound, core.WrongZone),
    *(core.CorruptImage, core.UnsafeImage, core.UnreasonableImage, core.NotADisk, core.EmptyImage),
    *PROVIDER,
)
CLAIM = (
    *(core.UnsupportedAccess, core.IdempotencyMismatch, core.Refused, core.AccessConflict, core.DiskInUse),
    *(core.ProviderPaused, core.NodeDraining, core.NodeDisplaced),
)
MAINTENANCE = (*STORE, *BODY)
TRANSFER = (
    *(core.UnsupportedAccess, core.ExportNotReady, core.ExportOver),
    *(core.TransferUnavailable, core.TransferFailed),
)
FRAMES = {
    "requestBody": {"required": True, "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
}


async def _async_manager(request: Request) -> AsyncManager:
    manager: AsyncManager = request.app.state.async_manager
    return manager


Facade = Annotated[AsyncManager, Depends(_async_manager)]
ExportId = Annotated[
    str,
    Path(description="The export's id.", examples=["019a1b2c3d4e5f60718293a4"], pattern=requests.NO_CONTROL_CHARACTERS),
]
Provider = Annotated[
    str,
    Path(
        description="The part of the disk's id before the colon.",
        examples=["local"],
        pattern=requests.NO_CONTROL_CHARACTERS,
    ),
]
NativeId = Annotated[
    str,
    Path(
        description="The part of the disk's id after the colon; slashes as they are.",
        examples=["web01.qcow2"],
        pattern=requests.NO_CONTROL_CHARACTERS,
    ),
]
ProviderName = Annotated[
    str,
    Path(description="The provider's name.", examples=["local"], pattern=requests.NO_CONTROL_CHARACTERS),
]
NodeName = Annotated[
    str,
    Path(description="The node's name.", examples=["worker-1"], pattern=requests.NO_CONTROL_CHARACTERS),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=MAX_KEY_LENGTH + len('""'),
        description="A value that the client makes up, one per export that it wants (a UUID). A request that is "
        "repeated with the key gives the same export; another request with the key is refused.",
    ),
]


@router.post(
    "/v1/exports",
    status_code=201,
    tags=["exports"],
    summary="Export a disk",
    responses=documented(*STORE, *BODY, *DISK, *CLAIM),
)
async def create_export(
    request: requests.ExportRequest,
    facade: Facade,
    response: Response,
    wait: WaitSeconds,
    idempotency_key: IdempotencyKey = None,
) -> answers.Export:
    """Claims the disk at once and attaches and serves it then: the export is `pending` until it is `ready`.

    An unknown disk, a refusal and a conflict with another claim are answered right away. What goes wrong later is in
    `error` of the export.
    """
    export = await facade.claim(wait, request.wanted(idempotency_key and idempotency_key.strip('"')))
    response.headers["Location"] = f"/v1/exports/{export.id}"
    return answers.Export.of(export)


@router.get("/v1/exports", tags=["exports"], summary="List exports", responses=documented(*STORE))
async def list_exports(wanted: Annotated[requests.ExportQuery, Query()], facade: Facade) -> answers.ExportList:
    """Newest first. Closed and failed exports are listed for as long as they are kept. Without credentials."""
    page = await facade.run(facade.manager.list, wanted.filter, wanted.page, wanted.limit)
    items = [answers.Export.of(export, with_credentials=False) for export in page.items]
    return answers.ExportList(items=items, next_page=page.next_page)


@router.get("/v1/exports/{export_id}", tags=["exports"], summary="Look at an export", responses=documented(*EXPORT))
async def get_export(export_id: ExportId, facade: Facade, wait: WaitSeconds) -> answers.Export:
    """With `Prefer: wait=N`, the answer comes when the export is ready or over."""
    return answers.Export.of(await facade.get(wait, export_id))


@router.post(
    "/v1/exports/{export_id}/renew",
    tags=["exports"],
    summary="Renew an export",
    responses=documented(*EXPORT, *BODY, core.ExportOver),
)
async def renew_export(export_id: ExportId, wanted: requests.RenewRequest, facade: Facade) -> answers.Export:
    """Starts the lifetime again now, so `expires_at` can also become earlier."""
    return answers.Export.of(await facade.run(facade.manager.renew, export_id, wanted.ttl))


@router.delete("/v1/exports/{export_id}", tags=["exports"], summary="Release an export", responses=documented(*EXPORT))
async def release_export(export_id: ExportId, facade: Facade) -> answers.Export:
    """No new client is accepted; connected ones get the grace period to finish. Releasing again changes nothing."""
    return answers.Export.of(await facade.run(facade.manager.release, export_id), with_credentials=False)


@router.post(
    "/v1/exports/{export_id}/force-release",
    tags=["operation"],
    summary="Force-release an export",
    responses=documented(*EXPORT, *BODY),
)
async def force_release_export(
    export_id: ExportId, action: requests.MaintenanceAction, facade: Facade
) -> answers.Export:
    """Ends an export at once, even while it is closing: connected clients are disconnected without a grace period."""
    export = await facade.run(facade.manager.maintenance.force_release, export_id, action.by, action.reason)
    return answers.Export.of(export, with_credentials=False)


@router.post(
    "/v1/exports/{export_id}/content",
    tags=["exports"],
    summary="Write to a disk",
    responses=documented(*EXPORT, core.InvalidContent, *TRANSFER, http.UnsupportedMediaType),
    openapi_extra=FRAMES,
)
async def write_content(export_id: ExportId, request: Request, facade: Facade) -> answers.Written:
    """For a client at the end of a slow link: compressed content of a `read-write` or `scratch` export.

    The body is a sequence of frames, as docs/http-api.md describes them; each is written when it has come. The answer
    comes when the export's NBD server has acknowledged all of them; what makes them durable is a flush over NBD.
    """
    if request.headers.get("content-type", "") != MEDIA_TYPE:
        raise http.UnsupportedMediaType(f"Send frames, with `Content-Type: {MEDIA_TYPE}`.")
    return answers.Written(written_bytes=await facade.transfers.write(export_id, request.stream()))


@router.get(
    "/v1/exports/{export_id}/digests",
    tags=["exports"],
    summary="Checksums of a disk",
    responses=documented(*EXPORT, *TRANSFER),
)
async def get_digests(
    export_id: ExportId, wanted: Annotated[requests.DigestQuery, Query()], facade: Facade
) -> answers.Digests:
    """Of each block of a range, read now: to compare a disk with what it should hold without moving its bytes."""
    digests = await facade.transfers.digests(export_id, wanted.offset, wanted.length)
    return answers.Digests(block_bytes=BLOCK_BYTES, digests=digests.hex())


@router.get("/v1/disks", tags=["disks"], summary="List disks", responses=documented(*STORE, *PROVIDER))
async def list_disks(wanted: Annotated[requests.DiskQuery, Query()], facade: Facade) -> answers.DiskList:
    """Asks one provider after the other. A page may be short or empty: `next_page` says whether there are more."""
    page = await facade.run(facade.manager.disks, wanted.provider, wanted.query, wanted.page, wanted.limit)
    uses = await facade.run(facade.manager.uses, page.items)
    return answers.DiskList(items=list(map(answers.Disk.of, page.items, uses)), next_page=page.next_page)


@router.get(
    "/v1/disks/{provider}/{native_id:path}",
    tags=["disks"],
    summary="Look at a disk",
    responses=documented(*STORE, *DISK),
)
async def get_disk(provider: Provider, native_id: NativeId, facade: Facade) -> answers.Disk:
    """What its provider says about it now."""
    disk = await facade.run(facade.manager.disk, f"{provider}:{native_id}")
    return answers.Disk.of(disk, *await facade.run(facade.manager.uses, [disk]))


@router.get("/v1/attachments", tags=["service"], summary="List attachments", responses=documented(*STORE))
async def list_attachments(facade: Facade) -> answers.AttachmentList:
    """The disks that are attached to nodes, or are being attached or detached, and what keeps one from it."""
    attachments = await facade.run(facade.manager.attachments)
    return answers.AttachmentList(items=[answers.Attachment.of(record) for record in attachments])


@router.get("/v1/providers", tags=["service"], summary="List providers", responses=documented(*STORE))
async def list_providers(facade: Facade) -> answers.ProviderList:
    """The configured providers, and this machine as each of them knows it."""
    providers = await facade.run(facade.manager.providers)
    return answers.ProviderList(items=[answers.Provider.of(status) for status in providers])


@router.post(
    "/v1/providers/{provider}/pause",
    tags=["operation"],
    summary="Pause a provider",
    responses=documented(*MAINTENANCE, core.ProviderNotFound),
)
async def pause_provider(
    provider: ProviderName, action: requests.MaintenanceAction, facade: Facade
) -> answers.Provider:
    """It makes no new exports (`provider_paused`). Existing exports are still renewed, served and released."""
    return answers.Provider.of(await facade.run(facade.manager.maintenance.pause, provider, action.by, action.reason))


@router.post(
    "/v1/providers/{provider}/resume",
    tags=["operation"],
    summary="End a pause",
    responses=documented(*MAINTENANCE, core.ProviderNotFound),
)
async def resume_provider(
    provider: ProviderName, action: requests.MaintenanceAction, facade: Facade
) -> answers.Provider:
    """The provider makes exports again."""
    return answers.Provider.of(await facade.run(facade.manager.maintenance.resume, provider, action.by, action.reason))


@router.get("/v1/nodes", tags=["service"], summary="List nodes", responses=documented(*STORE))
async def list_nodes(facade: Facade) -> answers.NodeList:
    """The machines that use this store, and when each was seen last."""
    nodes = await facade.run(facade.manager.nodes)
    return answers.NodeList(items=[answers.Node.of(record) for record in nodes])


@router.post(
    "/v1/nodes/{node}/drain",
    tags=["operation"],
    summary="Drain a node",
    responses=documented(*MAINTENANCE, core.NodeNotFound),
)
async def drain_node(node: NodeName, action: requests.MaintenanceAction, facade: Facade) -> answers.Node:
    """It takes no new exports (`node_draining`). When its last disk has been detached, it is `drained`."""
    return answers.Node.of(await facade.run(facade.manager.maintenance.drain, node, action.by, action.reason))


@router.post(
    "/v1/nodes/{node}/undrain",
    tags=["operation"],
    summary="End a drain",
    responses=documented(*MAINTENANCE, core.NodeNotFound),
)
async def undrain_node(node: NodeName, action: requests.MaintenanceAction, facade: Facade) -> answers.Node:
    """The node takes exports again."""
    return answers.Node.of(await facade.run(facade.manager.maintenance.undrain, node, action.by, action.reason))


@router.get("/v1/audit", tags=["service"], summary="List what was done", responses=documented(*STORE))
async def list_audit_events(wanted: Annotated[requests.AuditQuery, Query()], facade: Facade) -> answers.AuditEventList:
    """Newest first: who had which disk when. Kept when the exports themselves are forgotten."""
    page = await facade.run(facade.manager.audit, wanted.page, wanted.limit, wanted.export_id)
    return answers.AuditEventList(
        items=[answers.AuditEvent.of(event) for event in page.items], next_page=page.next_page
    )


@router.get("/healthz", tags=["service"], summary="Does it run?", responses=documented(*EVERY_ROUTE))
async def get_health() -> answers.Health:
    """Answers as long as the process works. Needs no token."""
    return answers.Health()


@router.get(
    "/readyz",
    tags=["service"],
    summary="Can it serve?",
    responses={
        **documented(*EVERY_ROUTE),
        503: {"model": answers.Readiness, "description": "Not now; findings say why"},
    },
)
async def get_readiness(request: Request, facade: Facade, response: Response) -> answers.Readiness:
    """200 if it can, 503 if it cannot, with what was looked at.

    Needs no token; without one that is asked for, names and reasons are left out of what was looked at.
    """
    findings = await facade.run(facade.manager.readiness)
    readiness = answers.Readiness.of(findings) if request.state.is_known else answers.Readiness.outline(findings)
    response.status_code = 200 if readiness.ready else 503
    return readiness
