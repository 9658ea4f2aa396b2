"""Whether the service lives, whether it is ready, and its figures for Prometheus."""

from __future__ import annotations

import logging

import httpx
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from symadj import __version__
from symadj.api.dependencies import Joined, Lane, SettingsOf, Store
from symadj.api.problems import describe
from symadj.api.schemas.service import Health, Readiness
from symadj.service.settings import Settings
from symadj.service.store import Database

log = logging.getLogger("symadj.api")

router = APIRouter(tags=["health"], responses=describe(421, 422))


@router.get("/healthz")
async def healthz() -> Health:
    """Answer as long as the process lives."""
    return Health(version=__version__)


@router.get("/ingestz", responses=describe(503))
async def ingestz(lane: Lane) -> Health:
    """Answer when the records of runs can be stored: the dispatcher asks before it calls a run silent.

    The question goes the way of the records, through the same threads and connections into the store.
    """
    await lane.run(Database.check_writable)
    return Health(version=__version__)


@router.get("/readyz", responses={503: {"model": Readiness, "description": "The store does not take what is written"}})
async def readyz(store: Store, settings: SettingsOf, response: Response, in_flight: Joined) -> Readiness:
    """Report whether the API can serve requests: whether the store takes what is written. Say whether Ray answers, too.

    Without Ray nothing is trained, but all requests are served, and jobs wait in the queue. So that is no 503, at which
    a load balancer would take the API away from its users, and from the runs that report to it.
    """
    # Anyone may ask, and the store is written to: once for all who ask at the same time.
    readiness = await in_flight.join("readiness", lambda: run_sync(_readiness, store, settings))
    if readiness.store != "ok":
        response.status_code = 503
    return readiness


def _readiness(store: Database, settings: Settings) -> Readiness:
    readiness = Readiness(store="ok", ray="ok")
    try:
        store.check()
        try:
            store.check_takes_writes()
        except Exception as error:
            log.warning("the store takes no write: %s", error)
            readiness.store = (
                f"{type(error).__name__}: the database answers and stores nothing: is its disk full, may it only be "
                "read, or does another process keep it locked?"
            )
    except Exception as error:
        log.warning("the store does not answer: %s", error)
        readiness.store = f"{type(error).__name__}: the database does not answer"
    token = settings.ray_token.get_secret_value() if settings.ray_token else None
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        # The process has a client for this one question only, so that a stuck Ray holds up nothing else.
        with httpx.Client(timeout=3, trust_env=False) as client:
            client.get(f"{settings.ray_address}/api/version", headers=headers).raise_for_status()
    except httpx.HTTPError as error:
        # Not where it is, which is nobody's concern who may ask here: that is in the log.
        log.warning("Ray does not answer at %s: %s", settings.ray_address, error)
        readiness.ray = f"{type(error).__name__}: Ray does not answer as it should"
    return readiness


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def prometheus_metrics(request: Request, in_flight: Joined) -> Response:
    """Jobs by state, how far active jobs are, requests and their times, for Prometheus."""
    # Anyone may ask, as often as they like: it is made once for all who ask at the same time.
    text = await in_flight.join("prometheus", lambda: run_sync(generate_latest, request.app.state.prometheus))
    return Response(text, media_type=CONTENT_TYPE_LATEST)
