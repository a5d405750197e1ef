"""API keys: made once, shown once, stored as hashes.

A secret reads ``fh-<id>-<random>``: the id finds the row, and the SHA-256 of the whole secret is
compared in constant time. The random part has 256 bits, so a plain hash is enough; a slow password
hash would protect nothing more and cost every request.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal, TypeAlias

import msgspec
import sqlalchemy as sql

from freehold.errors import NotFoundError, StorageError, UsageError
from freehold.serve.database import alone, connect, exclusive, reading
from freehold.serve.migrations import migrate

Role: TypeAlias = Literal["user", "auditor"]
"""A user asks the model; an auditor reads what was recorded and passports, and nothing else."""
ROLES: tuple[Role, ...] = ("user", "auditor")

_SCHEMA = sql.MetaData()
_KEYS = sql.Table(
    "api_keys",
    _SCHEMA,
    sql.Column("id", sql.String(16), primary_key=True),
    sql.Column("name", sql.String(64)),
    sql.Column("secret_sha256", sql.LargeBinary(32)),
    sql.Column("created", sql.Float),
    sql.Column("revoked", sql.Float),
    sql.Column("role", sql.String(16)),
    sql.Column("limits", sql.Text),
    sql.Column("certificate", sql.String(64)),
)
_USAGE = sql.Table(
    "key_usage",
    _SCHEMA,
    sql.Column("key_id", sql.String(16), primary_key=True),
    sql.Column("model", sql.String(256), primary_key=True),
    sql.Column("day", sql.Integer, primary_key=True),
    *(
        sql.Column(name, sql.BigInteger)
        for name in ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")
    ),
)
_MAX_SECRET = 128
_MAX_NAME = 64
_MAX_MODELS = 64
_EPOCH = date(1970, 1, 1)


class KeyLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a key may use. ``None`` is no limit. ``models`` are names as served; ``expires`` is in
    Unix seconds; ``token_budget`` counts for as long as the key lives. Tokens are prompts' and
    answers' together. Minutes and days are those of the clock, UTC. ``policy`` is the guard's that
    its requests fall under; ``None`` takes the server's own."""

    models: tuple[str, ...] | None = None
    policy: str | None = None
    expires: float | None = None
    concurrency: int | None = None
    requests_per_minute: int | None = None
    requests_per_day: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    token_budget: int | None = None

    def check(self) -> None:
        """Raises ``UsageError`` naming the first limit that cannot be one."""
        for name in COUNTS:
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1 << 53:
                raise UsageError(f"{name} is {value}: it must be 0 or more", param=name)
        if self.models is not None:
            if len(self.models) > _MAX_MODELS:
                raise UsageError(f"at most {_MAX_MODELS} models can be named", param="models")
            if not all(0 < len(name) <= 256 and name.isprintable() for name in self.models):
                raise UsageError("a model's name is 1 to 256 printable characters", param="models")
        if self.policy is not None and not (len(self.policy) <= 64 and self.policy.isprintable()):
            raise UsageError("a policy's name is at most 64 printable characters", param="policy")


COUNTS = (
    "concurrency",
    "requests_per_minute",
    "requests_per_day",
    "tokens_per_minute",
    "tokens_per_day",
    "token_budget",
)
"""The limits that are numbers."""


@dataclass(frozen=True, kw_only=True)
class KeyInfo:
    """What is known of a key, without its secret. Times are UTC. ``stored`` is false for one that
    ends with this process. ``certificate`` is the pin of the client certificate it is bound to."""

    id: str
    name: str
    created: datetime
    revoked: datetime | None = None
    role: str = "user"
    limits: KeyLimits = field(default_factory=KeyLimits)
    stored: bool = True
    certificate: str | None = None

    @property
    def expires(self) -> datetime | None:
        """When the key ends by itself."""
        return None if self.limits.expires is None else _time(self.limits.expires)

    @property
    def expired(self) -> bool:
        return self.expires is not None and self.expires <= datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class KeyUsage:
    """What one key has used of one model on one day."""

    key: str
    model: str
    day: date
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True, kw_only=True)
class NewKey:
    """A fresh key: the only time its secret is seen."""

    id: str
    name: str
    secret: str

    def __repr__(self) -> str:
        return f"NewKey(id={self.id!r}, name={self.name!r}, secret=<hidden>)"


class Keyring:
    """The keys of one installation, in a database at ``url``: ``sqlite:////path/keys.db``, or
    ``postgresql://USER@HOST/NAME`` for counters on several machines.

    Safe to use from several processes: a key revoked in one is refused by the others at once.
    Raises ``UsageError`` or ``StorageError``.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = connect(url)
        self._temporary: dict[str, tuple[KeyInfo, bytes]] = {}
        migrate(self._engine)

    def close(self) -> None:
        """Give the data base's connections back."""
        self._engine.dispose()

    def add(
        self,
        name: str,
        *,
        role: str = "user",
        limits: KeyLimits | None = None,
        certificate: str | None = None,
    ) -> NewKey:
        """Make and store a key called ``name``, which no key in use may have already, for a
        ``role`` of ``ROLES``. With the pin of a client ``certificate`` (``tls.read_pin``) it opens
        only where that was shown, and then without its secret too."""
        _check_name(name)
        if role not in ROLES:
            raise UsageError(f"role is {role!r}: it must be {' or '.join(ROLES)}", param="role")
        limits = limits or KeyLimits()
        limits.check()
        new, row = _mint(name)
        row |= {"role": role, "limits": _written(limits)}
        if certificate is not None:
            row["certificate"] = certificate
        with exclusive(self._engine, "added") as db:
            alone(db)
            taken = sql.select(_KEYS.c.id).where(_KEYS.c.name == name, _KEYS.c.revoked.is_(None))
            if db.execute(taken).first() is not None:
                raise UsageError(
                    f"a key named {name!r} is in use: choose another name, or revoke that one",
                    param="name",
                )
            if certificate is not None and (bound := _bound(db, certificate)) is not None:
                raise UsageError(
                    f"this certificate stands for the key {bound.name!r}: revoke that one, or "
                    "take a certificate of another key pair",
                    param="certificate",
                )
            db.execute(sql.insert(_KEYS).values(**row))
        return new

    def add_temporary(self) -> str:
        """Make a key that is never stored and ends with this process; return its secret."""
        new, _ = _mint("temporary")
        info = KeyInfo(id=new.id, name=new.name, created=datetime.now(UTC), stored=False)
        self._temporary[new.id] = (info, _digest(new.secret))
        return new.secret

    def list(self) -> Sequence[KeyInfo]:
        """Every stored key, revoked ones too, oldest first."""
        with reading(self._engine, "listed") as db:
            rows = db.execute(sql.select(_KEYS).order_by(_KEYS.c.created, _KEYS.c.id)).all()
        return [_info(row) for row in rows]

    def find(self, id_or_name: str) -> KeyInfo:
        """The key in use that has this id or name. Raises ``NotFoundError``."""
        with reading(self._engine, "found") as db:
            return _info(_in_use(db, id_or_name))

    def limit(self, id_or_name: str, limits: KeyLimits) -> KeyInfo:
        """Give a key these limits in place of what it had, also in a server that is running. Its
        guard's policy stays unless another is named; the empty name takes it away."""
        limits.check()
        with exclusive(self._engine, "changed") as db:
            row = _in_use(db, id_or_name)
            if limits.policy is None:
                limits = msgspec.structs.replace(limits, policy=_info(row).limits.policy)
            change = sql.update(_KEYS).where(_KEYS.c.id == row.id)
            db.execute(change.values(limits=_written(limits)))
        return replace(_info(row), limits=limits)

    def revoke(self, id_or_name: str) -> KeyInfo:
        """Refuse this key from now on. Raises ``NotFoundError`` when no key in use has it."""
        now = datetime.now(UTC)
        with exclusive(self._engine, "revoked") as db:
            row = _in_use(db, id_or_name)
            change = sql.update(_KEYS).where(_KEYS.c.id == row.id)
            db.execute(change.values(revoked=now.timestamp()))
        return replace(_info(row), revoked=now)

    def usage(self, since: date) -> Sequence[KeyUsage]:
        """What every key has used, by model and day (UTC) from ``since`` on, oldest first."""
        first = (since - _EPOCH).days
        asked = sql.select(_USAGE).where(_USAGE.c.day >= first)
        asked = asked.order_by(_USAGE.c.day, _USAGE.c.key_id, _USAGE.c.model)
        with reading(self._engine, "counted") as db:
            rows = db.execute(asked).all()
        return [
            KeyUsage(
                key=row.key_id,
                model=row.model,
                day=_EPOCH + timedelta(days=row.day),
                requests=row.requests,
                prompt_tokens=row.prompt_tokens,
                cached_tokens=row.cached_tokens,
                completion_tokens=row.completion_tokens,
            )
            for row in rows
        ]

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

    def certified(self, certificate: str) -> KeyInfo | None:
        """The key in use that is bound to the client certificate with this pin."""
        with reading(self._engine, "checked") as db:
            row = _bound(db, certificate)
        return None if row is None else _info(row)

    async def opens(self, secret: str, certificate: str | None = None) -> KeyInfo | None:
        """The key that a request opens with its ``secret``, or without one with its client's
        ``certificate``. In a thread where the data base is another machine's."""

        def look() -> KeyInfo | None:
            if secret or certificate is None:
                return self.check(secret)
            return self.certified(certificate)

        if self._engine.dialect.name == "sqlite":
            return look()  # faster than a thread can be asked
        return await asyncio.to_thread(look)

    def _find(self, key_id: str) -> tuple[KeyInfo | None, bytes]:
        if key_id in self._temporary:
            return self._temporary[key_id]
        with reading(self._engine, "checked") as db:
            row = db.execute(sql.select(_KEYS).where(_KEYS.c.id == key_id)).first()
        return (None, bytes(32)) if row is None else (_info(row), row.secret_sha256)


def _in_use(db: sql.Connection, id_or_name: str) -> Any:
    mine = sql.or_(_KEYS.c.id == id_or_name, _KEYS.c.name == id_or_name)
    row = db.execute(sql.select(_KEYS).where(mine, _KEYS.c.revoked.is_(None))).first()
    if row is None:
        raise NotFoundError(
            f"no key in use has the id or name {id_or_name!r}: "
            "see `freehold keys list` for those there are",
            param="key",
        )
    return row


def _bound(db: sql.Connection, certificate: str) -> Any:
    mine = sql.and_(_KEYS.c.certificate == certificate, _KEYS.c.revoked.is_(None))
    return db.execute(sql.select(_KEYS).where(mine)).first()


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


def _info(row: Any) -> KeyInfo:
    try:
        limits = msgspec.json.decode(row.limits, type=KeyLimits)
    except msgspec.MsgspecError as error:
        raise StorageError(f"the limits of key {row.id} cannot be read: {error}") from error
    revoked = None if row.revoked is None else _time(row.revoked)
    return KeyInfo(
        id=row.id,
        name=row.name,
        created=_time(row.created),
        revoked=revoked,
        role=row.role,
        limits=limits,
        certificate=row.certificate,
    )


def _written(limits: KeyLimits) -> str:
    given = {k: v for k, v in msgspec.to_builtins(limits).items() if v not in (None, "")}
    return msgspec.json.encode(given).decode()


def _time(stamp: float) -> datetime:
    return datetime.fromtimestamp(stamp, UTC)


def _check_name(name: str) -> None:
    if not 0 < len(name) <= _MAX_NAME or not name.isprintable() or name != name.strip():
        raise UsageError(
            f"a key's name is 1 to {_MAX_NAME} printable characters, without a space at either end",
            param="name",
        )
