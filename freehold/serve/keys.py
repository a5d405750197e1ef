"""API keys: made once, shown once, stored as hashes.

A secret reads ``fh-<id>-<random>``: the id finds the row, and the SHA-256 of the whole secret is
compared in constant time. The random part has 256 bits, so a plain hash is enough; a slow password
hash would protect nothing more and cost every request.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

import sqlalchemy as sql
from sqlalchemy.engine import make_url

from freehold.errors import NotFoundError, StorageError, UsageError

Role: TypeAlias = Literal["user", "auditor"]
"""A user asks the model; an auditor reads what was recorded and passports, and nothing else."""
ROLES: tuple[Role, ...] = ("user", "auditor")

_SCHEMA = sql.MetaData()
_KEYS = sql.Table(
    "api_keys",
    _SCHEMA,
    sql.Column("id", sql.String(16), primary_key=True),
    sql.Column("name", sql.String(64), nullable=False),
    sql.Column("secret_sha256", sql.LargeBinary(32), nullable=False),
    sql.Column("created", sql.Float, nullable=False),
    sql.Column("revoked", sql.Float),
    sql.Column("role", sql.String(16), nullable=False, server_default="user"),
)
_MAX_SECRET = 128
_MAX_NAME = 64


@dataclass(frozen=True, kw_only=True)
class KeyInfo:
    """What is known of a key, without its secret. Times are UTC."""

    id: str
    name: str
    created: datetime
    revoked: datetime | None = None
    role: str = "user"


@dataclass(frozen=True, kw_only=True)
class NewKey:
    """A fresh key: the only time its secret is seen."""

    id: str
    name: str
    secret: str

    def __repr__(self) -> str:
        return f"NewKey(id={self.id!r}, name={self.name!r}, secret=<hidden>)"


class Keyring:
    """The keys of one installation, in a database at ``url`` (``sqlite:////path/keys.db``).

    A SQLite file is made readable by its owner alone, and refused when others may open it.
    Safe to use from several processes: a key revoked in one is refused by the others at once.
    Raises ``UsageError`` or ``StorageError``.
    """

    def __init__(self, url: str) -> None:
        try:
            location = make_url(url)
        except sql.exc.ArgumentError as error:
            raise UsageError(
                "the key database's address is no database URL: write sqlite:////path/keys.db"
            ) from error
        if location.get_backend_name() == "sqlite":
            _own_file(location.database)
        self._engine = sql.create_engine(location)
        self._temporary: dict[str, tuple[KeyInfo, bytes]] = {}
        with self._reading("made"):
            _SCHEMA.create_all(self._engine)
            self._give_roles()

    def add(self, name: str, *, role: str = "user") -> NewKey:
        """Make and store a key called ``name``, which no key in use may have already, for a
        ``role`` of ``ROLES``."""
        _check_name(name)
        if role not in ROLES:
            raise UsageError(f"role is {role!r}: it must be {' or '.join(ROLES)}", param="role")
        new, row = _mint(name)
        row["role"] = role
        with self._reading("added"), self._engine.begin() as db:
            taken = sql.select(_KEYS.c.id).where(_KEYS.c.name == name, _KEYS.c.revoked.is_(None))
            if db.execute(taken).first() is not None:
                raise UsageError(
                    f"a key named {name!r} is in use: choose another name, or revoke that one",
                    param="name",
                )
            db.execute(sql.insert(_KEYS).values(**row))
        return new

    def add_temporary(self) -> str:
        """Make a key that is never stored and ends with this process; return its secret."""
        new, _ = _mint("temporary")
        info = KeyInfo(id=new.id, name=new.name, created=datetime.now(UTC))
        self._temporary[new.id] = (info, _digest(new.secret))
        return new.secret

    def list(self) -> Sequence[KeyInfo]:
        """Every stored key, revoked ones too, oldest first."""
        with self._reading("listed"), self._engine.connect() as db:
            rows = db.execute(sql.select(_KEYS).order_by(_KEYS.c.created, _KEYS.c.id)).all()
        return [_info(row) for row in rows]

    def revoke(self, id_or_name: str) -> KeyInfo:
        """Refuse this key from now on. Raises ``NotFoundError`` when no key in use has it."""
        mine = sql.or_(_KEYS.c.id == id_or_name, _KEYS.c.name == id_or_name)
        with self._reading("revoked"), self._engine.begin() as db:
            row = db.execute(sql.select(_KEYS).where(mine, _KEYS.c.revoked.is_(None))).first()
            if row is None:
                raise NotFoundError(
                    f"no key in use has the id or name {id_or_name!r}: "
                    "see `freehold keys list` for those there are",
                    param="key",
                )
            now = datetime.now(UTC)
            change = sql.update(_KEYS).where(_KEYS.c.id == row.id)
            db.execute(change.values(revoked=now.timestamp()))
        info = _info(row)
        return replace(info, revoked=now)

    def check(self, secret: str) -> KeyInfo | None:
        """The key this secret opens, or ``None``. Constant-time in the secret."""
        if len(secret) > _MAX_SECRET or not secret.isascii():
            return None
        digest = _digest(secret)
        _, _, rest = secret.partition("-")
        key_id, _, _ = rest.partition("-")
        info, wanted = self._find(key_id)
        # Compared even when the id is unknown, so that both refusals take the same time.
        matches = hmac.compare_digest(digest, wanted)
        return info if matches and info is not None and info.revoked is None else None

    def _give_roles(self) -> None:
        """Bring a key file from before there were roles up to date: its keys are users'."""
        with self._engine.begin() as db:
            if "role" not in {column["name"] for column in sql.inspect(db).get_columns("api_keys")}:
                # Spelled out: SQLAlchemy Core has no ALTER TABLE.
                db.exec_driver_sql(
                    "ALTER TABLE api_keys ADD COLUMN role VARCHAR(16) NOT NULL DEFAULT 'user'"
                )

    def _find(self, key_id: str) -> tuple[KeyInfo | None, bytes]:
        if key_id in self._temporary:
            return self._temporary[key_id]
        with self._reading("checked"), self._engine.connect() as db:
            row = db.execute(sql.select(_KEYS).where(_KEYS.c.id == key_id)).first()
        return (None, bytes(32)) if row is None else (_info(row), row.secret_sha256)

    def _reading(self, done: str) -> _Storage:
        return _Storage(done)


class _Storage:
    """Turns a database's failure into our own; its message may hold the statement's values."""

    def __init__(self, done: str) -> None:
        self._done = done

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sql.exc.SQLAlchemyError):
            cause = type(getattr(error, "orig", None) or error).__name__
            raise StorageError(
                f"keys could not be {self._done}: the key database failed ({cause}); check that "
                "its disk is there, writable and not full"
            ) from None


def _mint(name: str) -> tuple[NewKey, dict[str, str | bytes | float]]:
    key_id = secrets.token_hex(6)
    secret = f"fh-{key_id}-{secrets.token_urlsafe(32)}"
    row: dict[str, str | bytes | float] = {
        "id": key_id,
        "name": name,
        "secret_sha256": _digest(secret),
        "created": datetime.now(UTC).timestamp(),
    }
    return NewKey(id=key_id, name=name, secret=secret), row


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _info(row: sql.Row[tuple[str, str, bytes, float, float | None, str]]) -> KeyInfo:
    revoked = None if row.revoked is None else _time(row.revoked)
    return KeyInfo(
        id=row.id, name=row.name, created=_time(row.created), revoked=revoked, role=row.role
    )


def _time(stamp: float) -> datetime:
    return datetime.fromtimestamp(stamp, UTC)


def _check_name(name: str) -> None:
    if not 0 < len(name) <= _MAX_NAME or not name.isprintable() or name != name.strip():
        raise UsageError(
            f"a key's name is 1 to {_MAX_NAME} printable characters, without a space at either end",
            param="name",
        )


def _own_file(database: str | None) -> None:
    """Make the key file owner-only before SQLite does with whatever umask there is."""
    if database is None or database in {"", ":memory:"}:
        raise UsageError("keys need a file: write sqlite:////path/keys.db")
    path = Path(database)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise StorageError(
            f"the key file {path} cannot be opened: {error.strerror}; check its folder and owner"
        ) from error
    if mode & 0o077:
        raise UsageError(
            f"the key file {path} is open to other users (mode {mode:04o}): run `chmod 600 {path}`"
        )
