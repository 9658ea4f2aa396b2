"""API keys in the store: what is kept of them, what opens and what does not."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier, Thread

import pytest
import sqlalchemy as sa
from pydantic_settings import SettingsError

from symadj.service import keys
from symadj.service.errors import NotFoundError, UnauthorizedError
from symadj.service.roles import Principal, Role
from symadj.service.settings import Settings, read_settings
from symadj.service.store import Database
from symadj.service.store import keys as stored
from symadj.service.store.tables import ApiKey

SECRET = b"a secret of the server's for tests"


def make(database: Database, name: str = "ada", role: Role = Role.SUBMITTER, days: float | None = None) -> str:
    with database.session() as session:
        expires_in = timedelta(days=days) if days is not None else None
        return keys.create(session, SECRET, name=name, role=role, expires_in=expires_in)[1]


def row_of(database: Database, key: str) -> ApiKey:
    with database.read_session() as session:
        row = stored.find(session, key[7:15])
    assert row is not None
    return row


def test_a_key_opens_as_its_name_and_role(database: Database) -> None:
    key = make(database, "ada@example.org", Role.VIEWER)
    assert keys.authenticate(database, key, SECRET) == Principal(
        "ada@example.org", Role.VIEWER, row_of(database, key).id
    )


def test_the_store_holds_nothing_that_opens(database: Database) -> None:
    key = make(database)
    with database.engine.connect() as connection:
        (row,) = connection.execute(sa.text("SELECT * FROM api_keys")).all()
    assert key[7:15] in row, "the part that names it"
    assert key[15:47] not in repr(row)
    assert key[15:47].encode().hex() not in repr([value.hex() for value in row if isinstance(value, bytes)])


def test_another_secret_voids_the_keys(database: Database) -> None:
    key = make(database)
    with pytest.raises(UnauthorizedError, match="the server's secret was changed"):
        keys.authenticate(database, key, b"another secret")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda key: key[:-1],
        lambda key: key + "a",
        lambda key: key.upper(),
        lambda key: f" {key}",
        lambda key: key[:20] + ("b" if key[20] != "b" else "c") + key[21:],
        lambda key: key[:30] + key[31] + key[30] + key[32:],
        lambda key: "",
        lambda key: "symadj_é" + key[8:],
    ],
)
def test_a_mistyped_key_is_told_apart_without_a_look_at_the_store(spoil: object, tmp_path: Path) -> None:
    nowhere = Database(f"sqlite:///{tmp_path / 'never-migrated.sqlite'}")
    key = "symadj_" + (body := "abcdefgh234567abcdefgh234567abcdefgh2345") + keys.checksum(body)
    assert callable(spoil)
    with pytest.raises(UnauthorizedError, match="a character is wrong or missing"):
        keys.authenticate(nowhere, spoil(key), SECRET)


def test_a_key_of_nobody_is_unknown_whatever_part_of_another_it_has(database: Database) -> None:
    key, other = make(database), make(database)
    body = key[7:15] + other[15:47]
    for stranger in ("symadj_" + body + keys.checksum(body), "symadj_" + "a" * 40 + keys.checksum("a" * 40)):
        with pytest.raises(UnauthorizedError, match="this server has no such API key"):
            keys.authenticate(database, stranger, SECRET)


def test_a_revoked_key_opens_nothing_and_another_of_its_name_still_does(database: Database) -> None:
    old, new = make(database), make(database)
    with database.session() as session:
        first = keys.revoke(session, old[7:15]).revoked_at
    with database.session() as session:
        assert keys.revoke(session, old[7:15]).revoked_at == first, "the time of the first revocation stays"
    with pytest.raises(UnauthorizedError, match="was revoked at"):
        keys.authenticate(database, old, SECRET)
    assert keys.authenticate(database, new, SECRET).name == "ada"


def test_what_is_no_key_is_not_revoked(database: Database) -> None:
    with database.session() as session, pytest.raises(NotFoundError, match="no key 'aaaaaaaa'"):
        keys.revoke(session, "aaaaaaaa")


def test_a_key_opens_until_it_expires(database: Database) -> None:
    keys.authenticate(database, make(database, days=1), SECRET)
    with pytest.raises(UnauthorizedError, match="expired at"):
        keys.authenticate(database, make(database, days=-1), SECRET)


def test_the_last_use_is_noted_once_an_hour(database: Database) -> None:
    key = make(database)
    assert row_of(database, key).last_used_at is None
    keys.authenticate(database, key, SECRET)
    noted = row_of(database, key).last_used_at
    assert noted is not None
    keys.authenticate(database, key, SECRET)
    assert row_of(database, key).last_used_at == noted
    with database.session() as session:
        stored.note_use(session, key[7:15], datetime.now(UTC) - timedelta(hours=2))
    keys.authenticate(database, key, SECRET)
    assert (row_of(database, key).last_used_at or noted) >= noted


def test_the_first_admin_key_is_made_once_in_a_file_of_its_owner_alone(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "admin"
    for made in (True, False):
        with database.session() as session:
            assert keys.bootstrap(session, SECRET, file) is made
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert keys.authenticate(database, file.read_text().strip(), SECRET).role is Role.ADMIN
    assert list(tmp_path.glob(".admin-*")) == []


@pytest.mark.parametrize("days", [None, -1])
def test_where_no_usable_admin_key_is_left_another_first_one_is_made(
    database: Database, tmp_path: Path, days: float | None
) -> None:
    make(database, "bob", Role.VIEWER)
    old = make(database, "root", Role.ADMIN, days)
    if days is None:
        with database.session() as session:
            keys.revoke(session, old[7:15])
    with database.session() as session:
        assert keys.bootstrap(session, SECRET, tmp_path / "admin")


def test_no_key_is_stored_that_could_not_be_written(database: Database, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"), database.session() as session:
        keys.bootstrap(session, SECRET, tmp_path / "nowhere" / "admin")
    with database.read_session() as session:
        assert stored.every(session) == []


def test_of_several_that_start_at_once_one_makes_the_first_key(database: Database, tmp_path: Path) -> None:
    made: list[bool] = []
    barrier = Barrier(4)

    def start() -> None:
        barrier.wait()
        with database.session() as session:
            made.append(keys.bootstrap(session, SECRET, tmp_path / "admin"))

    threads = [Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False, False, False, True]
    assert keys.authenticate(database, (tmp_path / "admin").read_text().strip(), SECRET).name == "admin"


def test_secrets_are_read_from_the_files_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("KEY_SECRET", "k" * 32), ("STORE_URL", "sqlite:///of-the-file"), ("RAY_TOKEN", "token")):
        (tmp_path / name).write_text(f"{value}\n")
        monkeypatch.setenv(f"SYMADJ_{name}_FILE", str(tmp_path / name))
    monkeypatch.setenv("SYMADJ_STORAGE_FILE", "")
    monkeypatch.setenv("SYMADJ_MAX_QUEUED_PER_OWNER", "")
    settings = read_settings()
    assert settings.required_key_secret() == b"k" * 32
    assert settings.store_url == "sqlite:///of-the-file"
    assert settings.ray_token is not None
    assert settings.ray_token.get_secret_value() == "token"
    assert (settings.storage, settings.max_queued_per_owner) == (None, None)
    monkeypatch.setenv("SYMADJ_STORE_URL", "sqlite:///of-the-environment")
    assert read_settings().store_url == "sqlite:///of-the-environment"


def test_settings_that_do_not_hold_are_named_without_their_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMADJ_KEY_SECRET", "hunter2")
    with pytest.raises(SettingsError, match=r"SYMADJ_KEY_SECRET: .*at least 32") as caught:
        read_settings()
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in str(caught.value.__cause__)
    monkeypatch.delenv("SYMADJ_KEY_SECRET")
    monkeypatch.setenv("SYMADJ_KEY_SECRET_FILE", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match=r"SYMADJ_KEY_SECRET_FILE names .*none"):
        read_settings()
    with pytest.raises(SettingsError, match="set SYMADJ_KEY_SECRET"):
        Settings.model_construct(key_secret=None).required_key_secret()
