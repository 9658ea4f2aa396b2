"""Webhooks, of whoever made them; an admin sees all."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from symadj.api.bodies import json_body
from symadj.api.dependencies import After, Asker, Limit, Owner, SettingsOf, Store, require_json
from symadj.api.problems import describe
from symadj.api.schemas.webhooks import (
    DeliveryList,
    DeliveryRead,
    DeliveryState,
    NewWebhook,
    WebhookCreated,
    WebhookList,
    WebhookRead,
)
from symadj.service import webhooks
from symadj.service.errors import ForbiddenError
from symadj.service.roles import Principal, Role
from symadj.service.store import webhooks as stored
from symadj.service.store.tables import WebhookDelivery

router = APIRouter(prefix="/webhooks", tags=["webhooks"])

WebhookId = Annotated[str, Path(max_length=64, description="Id of a webhook.")]


async def _may_make(_owner: Owner, _json: Annotated[None, Depends(require_json)]) -> None:
    """Let those through who may make a webhook, and say that they send JSON."""


NewWebhookBody = Annotated[NewWebhook, json_body(NewWebhook, after=_may_make, most_bytes=2**16, most_values=500)]


def _confined_to(asker: Principal) -> str | None:
    """Return the only owner whose webhooks they see; None: they see all. An address is often a secret by itself."""
    return None if asker.role is Role.ADMIN else asker.name


@router.post("", status_code=201, responses=describe(400, 403, 409, 413, 415))
def create_webhook(
    new: NewWebhookBody,
    store: Store,
    settings: SettingsOf,
    asker: Asker,
    owner: Owner,
    request: Request,
    response: Response,
) -> WebhookCreated:
    """Make a webhook. Only this answer contains its secret: it can't be read again."""
    if new.all_owners and asker.role is not Role.ADMIN:
        raise ForbiddenError(f"all_owners: the key of {asker.name} is a {asker.role}'s, and this takes an admin's")
    with store.session() as session:
        made = webhooks.create(
            session,
            owner=owner,
            url=new.url,
            events=new.events,
            labels=new.labels,
            all_owners=new.all_owners,
            allowed=settings.allowed_webhook_hosts(),
        )
    response.headers["Location"] = str(request.app.url_path_for("read_webhook", webhook_id=made.id))
    response.headers["Cache-Control"] = "no-store"
    return WebhookCreated.model_validate(made)


@router.get("")
def list_webhooks(store: Store, asker: Asker) -> WebhookList:
    """List one's webhooks, the newest first; with an admin's key everybody's."""
    with store.read_session() as session:
        return WebhookList(
            items=[WebhookRead.model_validate(row) for row in stored.every(session, _confined_to(asker))]
        )


@router.get("/{webhook_id}", responses=describe(404))
def read_webhook(store: Store, asker: Asker, webhook_id: WebhookId) -> WebhookRead:
    """Read a webhook, without its secret."""
    with store.read_session() as session:
        return WebhookRead.model_validate(stored.get(session, webhook_id, owner=_confined_to(asker)))


@router.delete("/{webhook_id}", status_code=204, responses=describe(403, 404))
def delete_webhook(store: Store, asker: Asker, _owner: Owner, webhook_id: WebhookId) -> None:
    """Delete a webhook and its deliveries, those that are pending too."""
    with store.session() as session:
        stored.delete(session, stored.get(session, webhook_id, owner=_confined_to(asker)))


@router.post("/{webhook_id}/ping", status_code=202, responses=describe(403, 404, 409))
def ping_webhook(store: Store, asker: Asker, _owner: Owner, webhook_id: WebhookId) -> DeliveryRead:
    """Send a webhook the event `ping`; its deliveries say whether it arrived."""
    with store.session() as session:
        delivery = webhooks.ping(session, stored.get(session, webhook_id, owner=_confined_to(asker), lock=True))
    return _delivery(delivery)


@router.post("/{webhook_id}/enable", responses=describe(403, 404))
def enable_webhook(store: Store, asker: Asker, _owner: Owner, webhook_id: WebhookId) -> WebhookRead:
    """Enable a webhook that was disabled: what is pending is sent. Repeating it changes nothing."""
    with store.session() as session:
        webhook = stored.get(session, webhook_id, owner=_confined_to(asker), lock=True)
        webhooks.enable(webhook)
    return WebhookRead.model_validate(webhook)


@router.get("/{webhook_id}/deliveries", responses=describe(404))
def list_deliveries(
    store: Store,
    asker: Asker,
    webhook_id: WebhookId,
    state: Annotated[DeliveryState | None, Query(description="Deliveries in this state; default: all.")] = None,
    limit: Limit = 50,
    after: After = None,
) -> DeliveryList:
    """List what a webhook was told or is to be told, newest first."""
    with store.read_session() as session:
        webhook = stored.get(session, webhook_id, owner=_confined_to(asker))
        page = stored.page_of_deliveries(session, webhook.id, state=state, limit=limit, after=after)
    return DeliveryList(
        items=[_delivery(row) for row in page.items],
        has_more=page.next_after is not None,
        next_after=page.next_after,
    )


def _delivery(row: WebhookDelivery) -> DeliveryRead:
    read = DeliveryRead.model_validate(row)
    return read if read.settled_at is None else read.model_copy(update={"next_try_at": None})
