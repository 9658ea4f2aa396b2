"""Answers about the audit log."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from symadj.api.schemas.answer import Answer, HasMore, NextAfter
from symadj.service.roles import Role

__all__ = ["AuditEntryRead", "AuditList"]


class AuditEntryRead(Answer):
    """A request that changed something, or was refused for who sent it."""

    id: str = Field(description="Id of the entry, `aud-...`.")
    time: datetime = Field(description="Of the answer.")
    who: str | None = Field(
        description="The name of the key; null: without a valid key. `local` where none is asked; `dispatcher` of what "
        "the server's retention did by itself."
    )
    role: Role | None = Field(description="What `who` was allowed then; null where `who` is, and of the dispatcher.")
    key_id: str | None = Field(
        description="The first 8 characters of the key after `symadj_`, which are no secret; null without one."
    )
    method: str = Field(description="Of HTTP; of the dispatcher, `THINNED` or `REMOVED`: a job's telemetry was.")
    route: str = Field(
        description="As in the documentation, `/api/v1/jobs/{job_id}/cancel`; `none`: there is none. Of the "
        "dispatcher, the setting that asks for it."
    )
    target: str | None = Field(description="The id in the path; null: the path has none.")
    made: str | None = Field(description="The id of what the request made; null: it made nothing.")
    status: int = Field(description="Of the answer; 499 where the client left before it, 401 and 403 where refused.")
    request_id: str = Field(description="`X-Request-ID` of the answer.")
    address: str | None = Field(
        description="From where the request came: that of a proxy, where one is before it; null where unknown."
    )
    left_out: int = Field(
        description="Requests without a valid key since the entry before that have none: of these, 60 a minute have."
    )


class AuditList(Answer):
    """A page of entries, newest first."""

    items: list[AuditEntryRead] = Field(description="The entries of this page.")
    has_more: HasMore
    next_after: NextAfter
