"""API keys: made, recognised, revoked. What is stored of a key is its HMAC under a secret that the store does not know.

A key is ``symadj_``, 8 characters that name it, 32 random ones, and a checksum of 7: a mistyped key is recognised
without a look at the store, and so is a key in a text by a scanner of secrets.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import os
import re
import secrets
import tempfile
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from symadj.service.errors import UnauthorizedError
from symadj.service.roles import Principal, Role
from symadj.service.store import Database, keys
from symadj.service.store.tables import ApiKey

__all__ = ["authenticate", "bootstrap", "checksum", "create", "revoke"]

log = logging.getLogger("symadj.keys")

_FORM = re.compile(r"symadj_(([a-z2-7]{8})[a-z2-7]{32})([a-z2-7]{7})", re.ASCII)
# The last use is stored at this grain, so that reading seldom writes.
_USE_GRAIN = timedelta(hours=1)


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw).decode().rstrip("=").lower()


def checksum(body: str) -> str:
    """Return the 7 characters that follow the 40 of ``body`` in a key: their CRC-32."""
    return _base32(zlib.crc32(body.encode()).to_bytes(4, "big"))


def _hash(key: str, secret: bytes) -> bytes:
    return hmac.digest(secret, key.encode(), hashlib.sha256)


def create(
    session: Session, secret: bytes, *, name: str, role: Role, expires_in: timedelta | None = None
) -> tuple[ApiKey, str]:
    """Store a new key; return its row and the key itself, which can't be read again."""
    body = _base32(secrets.token_bytes(25))
    key = f"symadj_{body}{checksum(body)}"
    now = datetime.now(UTC)
    row = ApiKey(
        id=body[:8],
        hash=_hash(key, secret),
        name=name,
        role=role.value,
        created_at=now,
        expires_at=now + expires_in if expires_in is not None else None,
    )
    keys.add(session, row)
    return row, key


def authenticate(database: Database, key: str, secret: bytes) -> Principal:
    """Return whose key this is, and note its use.

    Raises:
        UnauthorizedError: it is not a key of this server, or is revoked or expired.
    """
    form = _FORM.fullmatch(key)
    if form is None or checksum(form[1]) != form[3]:
        raise UnauthorizedError(
            "this is not an API key: a character is wrong or missing; copy it again, from symadj_ to its end"
        )
    with database.read_session() as session:
        row = keys.find(session, form[2])
    # In constant time: how much of the hash is right is not to be measured.
    if not hmac.compare_digest(row.hash if row is not None else bytes(32), _hash(key, secret)) or row is None:
        raise UnauthorizedError(
            "this server has no such API key: it belongs to another server, or the server's secret was changed"
        )
    now = datetime.now(UTC)
    if row.revoked_at is not None:
        raise UnauthorizedError(f"this API key was revoked at {row.revoked_at:%Y-%m-%d %H:%M} UTC: ask for a new one")
    if row.expires_at is not None and row.expires_at <= now:
        raise UnauthorizedError(f"this API key expired at {row.expires_at:%Y-%m-%d %H:%M} UTC: ask for a new one")
    if row.last_used_at is None or now - row.last_used_at >= _USE_GRAIN:
        _note_use(database, row.id, now)
    return Principal(row.name, Role(row.role), row.id)


def _note_use(database: Database, key_id: str, now: datetime) -> None:
    try:
        with database.session() as session:
            keys.note_use(session, key_id, now)
    except OperationalError:
        # A read must not fail because something could not be written.
        log.warning("the use of key %s could not be noted: the store takes no writes", key_id)


def revoke(session: Session, key_id: str) -> ApiKey:
    """Make a key worth nothing from now on. Repeating it changes nothing.

    Raises:
        NotFoundError: there is no such key.
    """
    row = keys.get(session, key_id)
    if row.revoked_at is None:
        row.revoked_at = datetime.now(UTC)
    return row


def bootstrap(session: Session, secret: bytes, path: Path) -> bool:
    """Make an admin key and write it to a file that its owner alone can read, unless a usable admin key exists.

    The caller commits; the file is written before, so that no key is stored that nobody holds. Of several at once, one
    makes a key. Returns whether this one did.

    Raises:
        OSError: the file can't be written.
    """
    keys.lock(session)
    if keys.usable(session, Role.ADMIN.value, datetime.now(UTC)):
        return False
    _, key = create(session, secret, name="admin", role=Role.ADMIN)
    handle, making = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mode 0600
    try:
        with open(handle, "w") as file:
            file.write(f"{key}\n")
        os.replace(making, path)
    except OSError:
        os.unlink(making)
        raise
    return True
