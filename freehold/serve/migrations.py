"""The form of the key data base, step by step.

A data base says which steps it has taken; opening it takes the rest, in one transaction. A step
that was released is never changed: what it made is what is out there. Imports next to nothing, so
that a command can ask for ``LATEST`` before it loads anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlalchemy as sql

STEPS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE api_keys (id VARCHAR(16) PRIMARY KEY, name VARCHAR(64) NOT NULL,"
        " secret_sha256 {bytes} NOT NULL, created {float} NOT NULL, revoked {float})",
    ),
    ("ALTER TABLE api_keys ADD COLUMN role VARCHAR(16) NOT NULL DEFAULT 'user'",),
    (
        "ALTER TABLE api_keys ADD COLUMN limits TEXT NOT NULL DEFAULT '{{}}'",
        # What a key has used, by the day (since 1970, UTC) on which its requests began.
        "CREATE TABLE key_usage (key_id VARCHAR(16) NOT NULL, model VARCHAR(256) NOT NULL,"
        " day INTEGER NOT NULL, requests BIGINT NOT NULL, prompt_tokens BIGINT NOT NULL,"
        " cached_tokens BIGINT NOT NULL, completion_tokens BIGINT NOT NULL,"
        " PRIMARY KEY (key_id, model, day))",
        # The same by the minute, kept for as long as it counts.
        "CREATE TABLE key_minutes (key_id VARCHAR(16) NOT NULL, minute BIGINT NOT NULL,"
        " requests BIGINT NOT NULL, tokens BIGINT NOT NULL, PRIMARY KEY (key_id, minute))",
        # Requests that are being answered, with the most that each may come to.
        "CREATE TABLE key_running (id VARCHAR(32) PRIMARY KEY, key_id VARCHAR(16) NOT NULL,"
        " minute BIGINT NOT NULL, tokens BIGINT NOT NULL, until {float} NOT NULL)",
        "CREATE INDEX key_running_by_key ON key_running (key_id)",
    ),
    (
        # SHA-256 of the public key of the client certificate that a key is bound to, in hex.
        "ALTER TABLE api_keys ADD COLUMN certificate VARCHAR(64)",
        # So that a request whose counter died can be counted.
        "ALTER TABLE key_running ADD COLUMN model VARCHAR(256) NOT NULL DEFAULT ''",
    ),
    (
        # Texts that a guard's policy puts before somebody; their content where the owner says so.
        "CREATE TABLE guard_reviews (id VARCHAR(16) PRIMARY KEY, key_id VARCHAR(64) NOT NULL,"
        " policy VARCHAR(64) NOT NULL, side VARCHAR(64) NOT NULL, tier VARCHAR(64) NOT NULL,"
        " state VARCHAR(64) NOT NULL, text_sha256 {bytes} NOT NULL, categories TEXT NOT NULL,"
        " reasons TEXT NOT NULL, content TEXT, created {float} NOT NULL, decided {float})",
        "CREATE UNIQUE INDEX guard_reviews_by_text ON guard_reviews (text_sha256)",
        "CREATE INDEX guard_reviews_by_state ON guard_reviews (state, created)",
    ),
)
LATEST = len(STEPS)

_TYPES = {
    "sqlite": {"bytes": "BLOB", "float": "FLOAT"},
    "postgresql": {"bytes": "BYTEA", "float": "DOUBLE PRECISION"},
}


def migrate(engine: sql.Engine) -> None:
    """Bring a data base to the latest form; several processes may try at once.

    Raises what SQLAlchemy raises, and ``UsageError`` for a data base of a newer Freehold.
    """
    import sqlalchemy as sql

    from freehold.errors import UsageError
    from freehold.serve.database import alone, exclusive

    with exclusive(engine, "brought up to date") as db:
        alone(db)
        have = _version(db)
        if have > LATEST:
            raise UsageError(
                f"the key database has form {have}, and this Freehold knows {LATEST}: use the "
                "newer Freehold that wrote it"
            )
        types = _TYPES[engine.dialect.name]
        for step in STEPS[have:]:
            for statement in step:
                db.exec_driver_sql(statement.format(**types))
        if have < LATEST:
            db.exec_driver_sql("DELETE FROM freehold_schema")
            db.execute(sql.text("INSERT INTO freehold_schema VALUES (:now)"), {"now": LATEST})


def _version(db: sql.Connection) -> int:
    """How many steps were taken. Before there was a record of it, the tables tell."""
    import sqlalchemy as sql

    look = sql.inspect(db)
    if not look.has_table("freehold_schema"):
        db.exec_driver_sql("CREATE TABLE freehold_schema (version INTEGER NOT NULL)")
    if (told := db.exec_driver_sql("SELECT version FROM freehold_schema").scalar()) is not None:
        return int(told)
    if not look.has_table("api_keys"):
        return 0
    return 2 if "role" in {column["name"] for column in look.get_columns("api_keys")} else 1
