"""The audit log, for admins."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from symadj.api.dependencies import After, Audit, Limit, Store, require_admin
from symadj.api.problems import describe
from symadj.api.schemas.audit import AuditEntryRead, AuditList
from symadj.service.contract.records import Time
from symadj.service.store import audit

router = APIRouter(prefix="/audit", tags=["audit"], dependencies=[Depends(require_admin)], responses=describe(403))


@router.get("")
def list_audit(
    store: Store,
    audit_log: Audit,
    limit: Limit = 100,
    after: After = None,
    who: Annotated[str | None, Query(max_length=100, description="The name of a key.")] = None,
    route: Annotated[str | None, Query(max_length=200, description="As the entries have it.")] = None,
    id: Annotated[
        str | None, Query(max_length=200, description="In the path, or of what was made, or of the request.")
    ] = None,
    status: Annotated[int | None, Query(ge=100, le=599, description="Of the answer.")] = None,
    since: Annotated[Time | None, Query(description="Only from this time on.")] = None,
    until: Annotated[Time | None, Query(description="Only before this time.")] = None,
) -> AuditList:
    """List the requests that changed something and those that were refused (401, 403), newest first."""
    audit_log.flush()  # what was answered before this request is in the list
    with store.read_session() as session:
        page = audit.page(
            session,
            who=who,
            route=route,
            about=id,
            status=status,
            since=since,
            until=until,
            limit=limit,
            after=after,
        )
    return AuditList(
        items=[AuditEntryRead.model_validate(row) for row in page.items],
        has_more=page.next_after is not None,
        next_after=page.next_after,
    )
