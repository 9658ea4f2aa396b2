"""Queries on webhooks and what they are to be told."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from symadj.service.contract.notices import Notice
from symadj.service.errors import NotFoundError
from symadj.service.identifiers import new_delivery_id
from symadj.service.store import cursors
from symadj.service.store.cursors import Page
from symadj.service.store.tables import Event, Job, Webhook, WebhookDelivery

__all__ = [
    "DELIVERED",
    "FAILED",
    "LONGEST_PAUSE",
    "PENDING",
    "add",
    "any_due",
    "claim_due",
    "count",
    "delete",
    "delete_settled_before",
    "enqueue",
    "enqueue_for",
    "every",
    "find_delivery",
    "get",
    "page_of_deliveries",
]

PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"
# Between two tries: a later one was written before the clock was set back.
LONGEST_PAUSE = timedelta(hours=1)
_NOTICES = frozenset(Notice)


def add(session: Session, webhook: Webhook) -> None:
    """Store a new webhook."""
    session.add(webhook)
    session.flush()


def get(session: Session, webhook_id: str, *, owner: str | None, lock: bool = False) -> Webhook:
    """Return a webhook, of this owner (None: of any); with ``lock``, its row is held until the session commits.

    Raises:
        NotFoundError: there is none.
    """
    webhook = session.get(Webhook, webhook_id, with_for_update={"key_share": True} if lock else None)
    if webhook is None or owner not in {None, webhook.owner}:
        raise NotFoundError(f"there is no webhook {webhook_id!r}")
    return webhook


def every(session: Session, owner: str | None) -> Sequence[Webhook]:
    """Return the webhooks of an owner (None: of all), the newest first."""
    query = sa.select(Webhook).order_by(Webhook.created_at.desc(), Webhook.id.desc())
    return session.scalars(query if owner is None else query.where(Webhook.owner == owner)).all()


def count(session: Session, owner: str) -> int:
    """Return how many webhooks an owner has."""
    query = sa.select(sa.func.count()).select_from(Webhook).where(Webhook.owner == owner)
    return session.execute(query).scalar_one()


def delete(session: Session, webhook: Webhook) -> None:
    """Delete a webhook and its deliveries."""
    session.execute(sa.delete(Webhook).where(Webhook.id == webhook.id))


# A webhook that is being deleted is waited for: what it is told must not stand in the way of the event.
_INTERESTED = (
    sa.select(Webhook.id, Webhook.events, Webhook.labels)
    .where(Webhook.disabled_at.is_(None), sa.or_(Webhook.owner == sa.bindparam("owner"), Webhook.all_owners))
    .with_for_update(read=True, key_share=True)
)


def enqueue(session: Session, job: Job, event: Event) -> None:
    """Write down whom an event is to be told, in the transaction that writes the event."""
    if event.name not in _NOTICES:
        return
    interested = session.execute(_INTERESTED, {"owner": job.owner}).all()
    labels = job.spec.get("labels", {})
    for webhook_id, wanted, wanted_labels in interested:
        if event.name in wanted and wanted_labels.items() <= labels.items():
            data = {"job": _told(job), "event": _told_event(event)}
            enqueue_for(session, webhook_id, event.name, event.time, data, job_id=job.id)


def enqueue_for(
    session: Session,
    webhook_id: str,
    name: str,
    time: datetime,
    data: Mapping[str, object],
    *,
    job_id: str | None = None,
) -> WebhookDelivery:
    """Write down what a webhook is to be told; return it."""
    now = datetime.now(UTC)
    delivery = WebhookDelivery(
        id=new_delivery_id(),
        webhook_id=webhook_id,
        job_id=job_id,
        event=name,
        body=json.dumps({"type": name, "timestamp": time.isoformat(), "data": data}),
        created_at=now,
        state=PENDING,
        tries=0,
        next_try_at=now,
    )
    session.add(delivery)
    return delivery


def _told(job: Job) -> dict[str, object]:
    return {
        "id": job.id,
        "name": job.name,
        "owner": job.owner,
        "labels": job.spec.get("labels", {}),
        "state": job.state,
        "attempt": job.attempt,
        "reason": job.reason,
        "path": f"/api/v1/jobs/{job.id}",
    }


def _told_event(event: Event) -> dict[str, object]:
    return {
        "seq": event.seq,
        "attempt": event.attempt,
        "actor": event.actor,
        "message": event.message,
        "data": event.data,
    }


def any_due(session: Session, *, now: datetime, busy: Collection[str]) -> bool:
    """Return whether ``claim_due`` would find anything."""
    return session.execute(_due(now, busy).limit(1)).first() is not None


def _due(now: datetime, busy: Collection[str]) -> sa.Select[Webhook, WebhookDelivery]:
    free = sa.or_(WebhookDelivery.lease_expires_at.is_(None), WebhookDelivery.lease_expires_at <= now)
    due = sa.or_(WebhookDelivery.next_try_at <= now, WebhookDelivery.next_try_at > now + LONGEST_PAUSE)
    return (
        sa.select(Webhook, WebhookDelivery)
        .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
        .where(WebhookDelivery.state == PENDING, due, free, Webhook.disabled_at.is_(None), Webhook.id.not_in(busy))
        .order_by(WebhookDelivery.created_at, WebhookDelivery.id)
    )


def claim_due(
    session: Session, *, now: datetime, busy: Collection[str], lease: timedelta, token: str, most: int
) -> list[tuple[Webhook, WebhookDelivery]]:
    """Take the oldest deliveries that are due, one of each webhook, but none of those that are ``busy``.

    Who else asks does not get them before ``lease`` is over.
    """
    rows = session.execute(_due(now, busy).limit(most).with_for_update(of=WebhookDelivery, skip_locked=True)).all()
    first = {webhook.id: (webhook, delivery) for webhook, delivery in reversed(rows)}
    for _, delivery in first.values():
        delivery.lease_token, delivery.lease_expires_at = token, now + lease
    return list(first.values())


def find_delivery(session: Session, delivery_id: str) -> WebhookDelivery | None:
    """Return a delivery, its row held until the session commits, or None."""
    return session.get(WebhookDelivery, delivery_id, with_for_update=True, populate_existing=True)


def page_of_deliveries(
    session: Session, webhook_id: str, *, state: str | None, limit: int, after: str | None
) -> Page[WebhookDelivery]:
    """Return the deliveries of a webhook, newest first."""
    query = sa.select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id)
    if state is not None:
        query = query.where(WebhookDelivery.state == state)
    return cursors.page(session, query, WebhookDelivery.created_at, limit=limit, after=after)


def delete_settled_before(session: Session, time: datetime, *, most: int) -> int:
    """Delete at most so many deliveries that were settled before a time; return how many they were."""
    old = sa.select(WebhookDelivery.id).where(WebhookDelivery.settled_at < time).limit(most)
    ids = session.scalars(old).all()
    session.execute(sa.delete(WebhookDelivery).where(WebhookDelivery.id.in_(ids)))
    return len(ids)
