"""API keys, for admins."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response

from symadj.api.audit import note_made
from symadj.api.bodies import json_body
from symadj.api.dependencies import SettingsOf, Store, require_admin, require_json
from symadj.api.problems import describe
from symadj.api.schemas.keys import KeyCreated, KeyList, KeyRead, NewKey
from symadj.service import keys
from symadj.service.errors import ConflictError
from symadj.service.settings import SettingsError
from symadj.service.store import keys as stored_keys

router = APIRouter(prefix="/keys", tags=["keys"], dependencies=[Depends(require_admin)], responses=describe(403))


NewKeyBody = Annotated[NewKey, json_body(NewKey, after=require_json, most_bytes=2**14, most_values=100)]


@router.post("", status_code=201, responses=describe(400, 409, 413, 415))
def create_key(new: NewKeyBody, store: Store, settings: SettingsOf, request: Request, response: Response) -> KeyCreated:
    """Make a key. Only this answer contains it: it can't be read again.

    Keys of one name are one owner, who sees the same jobs with each. 409 where the server has no secret for keys.
    """
    try:
        secret = settings.required_key_secret()
    except SettingsError as error:
        raise ConflictError(str(error)) from error
    expires_in = timedelta(days=new.expires_in_days) if new.expires_in_days is not None else None
    with store.session() as session:
        row, key = keys.create(session, secret, name=new.name, role=new.role, expires_in=expires_in)
    note_made(request, row.id)
    response.headers["Cache-Control"] = "no-store"
    return KeyCreated(**KeyRead.model_validate(row).model_dump(), key=key)


@router.get("")
def list_keys(store: Store) -> KeyList:
    """List all keys, the newest first; including revoked and expired ones."""
    with store.read_session() as session:
        return KeyList(items=[KeyRead.model_validate(row) for row in stored_keys.every(session)])


@router.post("/{key_id}/revoke", responses=describe(404))
def revoke_key(store: Store, key_id: Annotated[str, Path(max_length=64, description="Id of a key.")]) -> KeyRead:
    """Revoke a key: it is refused from now on. Its jobs stay and continue to run. Repeating it changes nothing."""
    with store.session() as session:
        return KeyRead.model_validate(keys.revoke(session, key_id))
