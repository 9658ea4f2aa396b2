"""Webhooks and their deliveries: requests and answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from symadj.api.schemas.answer import Answer, HasMore, NextAfter, OwnerName
from symadj.service.contract.notices import Notice
from symadj.service.contract.spec.any_job import MOST_LABELS, LabelName, LabelValue
from symadj.service.contract.spec.section import Section

__all__ = [
    "DeliveryList",
    "DeliveryRead",
    "DeliveryState",
    "NewWebhook",
    "WebhookCreated",
    "WebhookList",
    "WebhookRead",
]

DeliveryState = Literal["pending", "delivered", "failed"]

Url = Annotated[str, Field(description="`https://host/path`, of an allowed host.")]
Told = Annotated[list[Notice], Field(description="What it is told.")]
_LABELS = Field(description="Only of jobs that have all of these labels.")
AllOwners = Annotated[bool, Field(description="Of everybody's jobs: for admins. Else of one's own.")]


class NewWebhook(Section):
    """An address to be told of events of jobs."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"url": "https://hooks.example.org/symadj", "events": ["succeeded", "failed"]}]}
    )

    url: Annotated[Url, Field(min_length=1, max_length=2000)]
    events: Told = Field(
        default=[Notice.SUCCEEDED, Notice.FAILED, Notice.CANCELLED],
        min_length=1,
        max_length=len(Notice),
    )
    labels: Annotated[dict[LabelName, LabelValue], _LABELS] = Field(default_factory=dict, max_length=MOST_LABELS)
    all_owners: AllOwners = False


class WebhookRead(Answer):
    """A webhook, without its secret."""

    id: str = Field(description="Id of the webhook, `whk-...`.")
    owner: OwnerName
    url: Url
    events: Told
    labels: Annotated[dict[str, str], _LABELS]
    all_owners: AllOwners
    created_at: datetime = Field(description="When it was made.")
    failures: int = Field(description="Deliveries that were given up since one arrived.")
    disabled_at: datetime | None = Field(
        description="It is told nothing from then on, until it is enabled; null: it is enabled."
    )
    disabled_because: str | None = Field(description="Why the last delivery did not arrive; null: it is enabled.")


class WebhookCreated(WebhookRead):
    """A new webhook."""

    secret: str = Field(description="Under which deliveries are signed. It is shown this once.")


class WebhookList(Answer):
    """Webhooks, the newest first."""

    items: list[WebhookRead] = Field(description="One's own; to an admin, everybody's.")


class DeliveryRead(Answer):
    """What a webhook is told, and whether that has arrived."""

    id: str = Field(description="`webhook-id` of the request; each try has the same.")
    job_id: str | None = Field(description="null: of a ping.")
    event: str = Field(description="Of the webhook's `events`, or `ping`.")
    created_at: datetime = Field(description="When the event was stored.")
    state: DeliveryState = Field(description="`pending` until it has arrived, or is given up as `failed`.")
    tries: int = Field(description="How often it was sent so far.")
    next_try_at: datetime | None = Field(description="Of a pending one; else null.")
    status: int | None = Field(description="That the last try was answered with; null: none was.")
    error: str | None = Field(description="Why the last try did not arrive; null: it did, or there was none.")
    settled_at: datetime | None = Field(description="When it arrived or was given up; null: neither.")


class DeliveryList(Answer):
    """A page of deliveries, newest first."""

    items: list[DeliveryRead] = Field(description="The deliveries of this page.")
    has_more: HasMore
    next_after: NextAfter
