"""Webhooks: made, checked, signed as the specification Standard Webhooks says (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from datetime import UTC, datetime

import httpx
from sqlalchemy.orm import Session

from symadj.service.contract.notices import Notice
from symadj.service.errors import ConflictError, InvalidParameterError
from symadj.service.hosts import AllowedHosts
from symadj.service.identifiers import new_webhook_id
from symadj.service.store import webhooks
from symadj.service.store.tables import Webhook, WebhookDelivery

__all__ = ["MOST_OF_OWNER", "PING", "check_url", "create", "enable", "headers", "ping"]

PING = "ping"
# Every event of a job looks at all of its owner's.
MOST_OF_OWNER = 20
_PREFIX = "whsec_"


def check_url(url: str, allowed: AllowedHosts) -> httpx.URL:
    """Return where a webhook sends to.

    Raises:
        InvalidParameterError: it is no address of HTTP, or its host is not allowed.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidParameterError(
            f"url: not an address ({error}): write https://host/path", pointer="/url"
        ) from error
    if parsed.scheme not in {"https", "http"} or not parsed.host or parsed.userinfo or parsed.fragment:
        raise InvalidParameterError(
            "url: write https://host/path, with neither user nor password nor fragment", pointer="/url"
        )
    host = parsed.raw_host.decode()
    if not allowed.allows(host):
        raise InvalidParameterError(
            f"url: the host {host!r} is not one that this service may call: its operator adds it to "
            "SYMADJ_WEBHOOK_HOSTS (of the API and of the dispatcher), as a name or, for an address, as that",
            pointer="/url",
        )
    return parsed


def create(
    session: Session,
    *,
    owner: str,
    url: str,
    events: list[Notice],
    labels: dict[str, str],
    all_owners: bool,
    allowed: AllowedHosts,
) -> Webhook:
    """Store a new webhook with a new secret.

    Raises:
        InvalidParameterError: its host is not allowed.
        ConflictError: the owner has as many as one may have.
    """
    check_url(url, allowed)
    if webhooks.count(session, owner) >= MOST_OF_OWNER:
        raise ConflictError(f"{owner} has {MOST_OF_OWNER} webhooks, the most: delete one that is not needed")
    webhook = Webhook(
        id=new_webhook_id(),
        owner=owner,
        url=url,
        secret=_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode(),
        events=[event.value for event in events],
        labels=labels,
        all_owners=all_owners,
        created_at=datetime.now(UTC),
        failures=0,
    )
    webhooks.add(session, webhook)
    return webhook


def ping(session: Session, webhook: Webhook) -> WebhookDelivery:
    """Let a webhook be told of nothing, to see whether it arrives.

    Raises:
        ConflictError: it is disabled.
    """
    if webhook.disabled_at is not None:
        raise ConflictError(f"webhook {webhook.id!r} is disabled ({webhook.disabled_because}): enable it first")
    delivery = webhooks.enqueue_for(session, webhook.id, PING, datetime.now(UTC), {})
    session.flush()
    return delivery


def enable(webhook: Webhook) -> None:
    """Let a webhook be told again; what waited for it goes on. Repeating it changes nothing."""
    webhook.disabled_at = webhook.disabled_because = None
    webhook.failures = 0


def headers(secret: str, delivery_id: str, body: str, now: datetime) -> dict[str, str]:
    """Return the headers of a delivery.

    The signature is HMAC-SHA256 of ``{id}.{timestamp}.{body}``, in base64, under the secret's bytes.
    """
    timestamp = str(int(now.timestamp()))
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    signed = f"{delivery_id}.{timestamp}.{body}".encode()
    signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {
        "Content-Type": "application/json",
        "User-Agent": "symadj",
        "webhook-id": delivery_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }
