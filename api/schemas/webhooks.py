"""Webhooks and their deliveries: requests and answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from symadj.api.schemas.answer import Answer
from symadj.service.contract.notices import Notice
from symadj.service.contract.spec.any_job import MOST_LABELS, LabelName
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


class NewWebhook(Section):
    """An address to be told of events of jobs."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"url": "https://hooks.example.org/symadj", "events": ["succeeded", "failed"]}]}
    )

    url: Annotated[str, Field(min_length=1, max_length=2000, description="`https://host/path`, of an allowed host.")]
    events: list[Notice] = Field(
        default=[Notice.SUCCEEDED, Notice.FAILED, Notice.CANCELLED],
        min_length=1,
        max_length=len(Notice),
        description="What it is told.",
    )
    labels: dict[LabelName, Annotated[str, Field(max_length=256)]] = Field(
        default_factory=dict, max_length=MOST_LABELS, description="Only of jobs that have all of these labels."
    )
    all_owners: bool = Field(False, description="Of everybody's jobs: for admins. Else of one's own.")


class WebhookRead(Answer):
    """A webhook, without its secret."""

    id: str
    owner: str
    url: str
    events: list[Notice]
    labels: dict[str, str]
    all_owners: bool
    created_at: datetime
    failures: int = Field(description="Deliveries that were given up since one arrived.")
    disabled_at: datetime | None = Field(description="It is told nothing from then on, until it is enabled.")
    disabled_because: str | None


class WebhookCreated(WebhookRead):
    """A new webhook."""

    secret: str = Field(description="Under which deliveries are signed. It is shown this once.")


class WebhookList(Answer):
    """Webhooks, the newest first."""

    items: list[WebhookRead]


class DeliveryRead(Answer):
    """What a webhook is told, and whether that has arrived."""

    id: str = Field(description="`webhook-id` of the request; each try has the same.")
    job_id: str | None = Field(description="null: of a ping.")
    event: str
    created_at: datetime
    state: DeliveryState
    tries: int
    next_try_at: datetime | None = Field(description="Of a pending one; else null.")
    status: int | None = Field(description="That the last try was answered with; null: none was.")
    error: str | None = Field(description="Why the last try did not arrive.")
    settled_at: datetime | None = Field(description="When it arrived or was given up.")


class DeliveryList(Answer):
    """A page of deliveries, newest first."""

    items: list[DeliveryRead]
    has_more: bool
    next_after: str | None = Field(description="Pass it as `after` for the next page.")
