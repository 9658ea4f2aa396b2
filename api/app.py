"""The FastAPI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio.to_thread import run_sync
from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts

from symadj import __version__
from symadj.api import problems
from symadj.api.audit import RecordAudit
from symadj.api.bodies import body_of
from symadj.api.bulkheads import CostlyReads, InFlight, IngestLane
from symadj.api.checks import Checks
from symadj.api.cluster_view import ClusterView
from symadj.api.departures import EndForDeparted
from symadj.api.dependencies import authenticate, refuse_unfit_address
from symadj.api.etags import AddEtags
from symadj.api.flow_process import FlowProcess
from symadj.api.head import AnswerHead
from symadj.api.long_polls import LongPolls
from symadj.api.monitoring import RequestMetrics, make_registry
from symadj.api.origins import RefuseForeignRequests, allowed_hosts
from symadj.api.routers import documentation, health, ingest, page, resources
from symadj.api.security_headers import AddSecurityHeaders
from symadj.api.submission_plans import SubmissionPlans
from symadj.service.audit import AuditLog
from symadj.service.settings import Settings
from symadj.service.store import Database
from symadj.service.store.downsampling import Downsampler
from symadj.service.store.memory_summaries import MemorySummaries

__all__ = ["create_app"]


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application; its store is migrated when it starts.

    ``uvicorn --factory symadj.api.app:create_app`` runs it.

    Raises:
        SettingsError: it must ask for API keys and has no secret to check them with.
    """
    settings = settings or Settings()
    key_secret = settings.required_key_secret() if settings.auth == "keys" else None
    database = Database(settings.resolved_store_url())
    ingest_lane = IngestLane(settings.resolved_store_url())
    audit_log = AuditLog(settings.resolved_store_url(), keep_days=settings.audit_days)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await run_sync(database.migrate)
        audit_log.start()
        if settings.plan_submitted:
            app.state.submission_plans = SubmissionPlans(database, app.state.cluster, app.state.flow_process)
        yield
        if app.state.submission_plans is not None:
            await app.state.submission_plans.close()
        await app.state.flow_process.close()
        await run_sync(audit_log.close)
        database.close()
        ingest_lane.database.close()

    app = FastAPI(
        title="symadj",
        version=__version__,
        description="Trains continuous normalizing flows with exact gradients at the least memory.",
        lifespan=lifespan,
        dependencies=[Depends(refuse_unfit_address)],
        openapi_tags=[{"name": "jobs"}],  # the first in the documentation
        # FastAPI's own pages load their viewers from other hosts.
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.database = database
    app.state.ingest_lane = ingest_lane
    app.state.audit_log = audit_log
    app.state.costly_reads = CostlyReads()
    app.state.downsampler = Downsampler(database)
    app.state.memory_summaries = MemorySummaries()
    app.state.in_flight = InFlight()
    app.state.long_polls = LongPolls()
    app.state.cluster = ClusterView(settings)
    app.state.flow_process = FlowProcess(settings)
    app.state.checks = Checks(settings, database, app.state.cluster, app.state.flow_process)
    app.state.submission_plans = None
    app.state.key_secret = key_secret
    app.state.prometheus = make_registry(database, settings)
    app.add_middleware(AddEtags)
    app.add_middleware(AnswerHead)
    app.add_middleware(RefuseForeignRequests, allowed_hosts=allowed_hosts(settings))
    app.add_middleware(RequestMetrics, registry=app.state.prometheus)
    app.add_middleware(AddSecurityHeaders)
    app.add_middleware(EndForDeparted)
    app.add_middleware(RecordAudit, audit_log=audit_log)
    problems.install(app)

    # 405: a path parameter with a slash in it makes another path, which may not take the method.
    described = problems.describe(401, 405, 421, 422, 503)
    # Not by a router of their own: FastAPI would look for the route of each request in all of them twice.
    app.include_router(ingest.router, prefix="/api/v1", responses=described)
    for router in resources():
        app.include_router(router, prefix="/api/v1", dependencies=[Depends(authenticate)], responses=described)
    app.include_router(health.router)
    app.include_router(documentation.router)
    app.include_router(page.router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _describe_bodies(app: FastAPI, document: dict[str, Any]) -> None:
    """Add what the dependencies of :mod:`symadj.api.bodies` read, of which FastAPI does not know that it is a body."""
    schemas = document["components"]["schemas"]
    for route in iter_route_contexts(app.routes):
        body = body_of(getattr(route, "dependant", None))
        if body is None:
            continue
        model = body.model
        content: dict[str, Any] = {}
        if model is not None:
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            for name, definition in (schema.pop("$defs", {}) | {model.__name__: schema}).items():
                schemas.setdefault(name, definition)
            read = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
            content = {kind: read for kind in ("application/json", *body.beside) if kind.endswith("json")}
        content |= {kind: {} for kind in body.beside if kind not in content}
        for method in route.methods or ():
            operation = document["paths"][route.path][method.lower()]
            operation["requestBody"] = {"required": body.required, "content": content}


def _describe_etags(document: dict[str, Any]) -> None:
    """Add what :mod:`symadj.api.etags` answers, of which FastAPI does not know."""
    for item in document["paths"].values():
        responses = item.get("get", {}).get("responses", {})
        if "application/json" in responses.get("200", {}).get("content", {}):
            responses.setdefault("304", {"description": "Nothing new since the ETag in If-None-Match"})


def _close_mappings(schema: Any) -> None:
    """Say of all mappings that they have no other keys than those of the pattern that theirs must match."""
    if isinstance(schema, list):
        for item in schema:
            _close_mappings(item)
    if isinstance(schema, dict):
        if "patternProperties" in schema:
            schema.setdefault("additionalProperties", False)
        for item in schema.values():
            _close_mappings(item)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document with our problems in the place of FastAPI's own validation errors."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = document["components"]["schemas"]
        schemas.pop("HTTPValidationError", None)
        schemas.pop("ValidationError", None)
        problem = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= problem.pop("$defs")
        schemas["Problem"] = problem
        _describe_bodies(app, document)
        _describe_etags(document)
        _close_mappings(schemas)
        app.openapi_schema = document
    return app.openapi_schema
