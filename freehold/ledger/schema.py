"""The ledger's tables, and how an older data base becomes a newer one.

``leaves`` is the log. ``subtrees`` only saves time: roots of complete subtrees of every eighth
height. ``checkpoints`` keeps the latest signed note and one for about every thousand leaves,
``witnessed`` the notes that others have cosigned. ``wishes`` are erasures that were asked for
while a server held the lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import sqlalchemy as sql

from freehold.errors import UsageError

TABLES = sql.MetaData()

MIGRATIONS = sql.Table(
    "migrations",
    TABLES,
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("applied", sql.String(40), nullable=False),
)
META = sql.Table(
    "meta",
    TABLES,
    sql.Column("key", sql.String(32), primary_key=True),
    sql.Column("value", sql.Text, nullable=False),
)
LEAVES = sql.Table(
    "leaves",
    TABLES,
    sql.Column("place", sql.BigInteger, primary_key=True, autoincrement=False),
    sql.Column("kind", sql.String(8), nullable=False),
    sql.Column("entry", sql.BigInteger, nullable=False, index=True),
    sql.Column("commitment", sql.LargeBinary, nullable=False),
    sql.Column("salt", sql.LargeBinary),
    sql.Column("body", sql.LargeBinary),
    sql.Column("content", sql.LargeBinary),
)
ROW = tuple(sql.cast(column, column.type).label(column.name) for column in LEAVES.columns)
"""A leaf's columns as they are read. SQLite keeps any type in any column: what somebody else put
there is read as the type it should have, and then found to be wrong."""

SUBTREES = sql.Table(
    "subtrees",
    TABLES,
    sql.Column("height", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("place", sql.BigInteger, primary_key=True, autoincrement=False),
    sql.Column("root", sql.LargeBinary, nullable=False),
)
CHECKPOINTS = sql.Table(
    "checkpoints",
    TABLES,
    sql.Column("size", sql.BigInteger, primary_key=True, autoincrement=False),
    sql.Column("note", sql.Text, nullable=False),
)
WITNESSED = sql.Table(
    "witnessed",
    TABLES,
    sql.Column("size", sql.BigInteger, primary_key=True, autoincrement=False),
    sql.Column("note", sql.Text, nullable=False),
)
WISHES = sql.Table(
    "wishes",
    TABLES,
    sql.Column("entry", sql.BigInteger, primary_key=True, autoincrement=False),
    sql.Column("reason", sql.Text, nullable=False),
)


def _first(db: sql.Connection) -> None:
    """Version 1: everything above."""
    TABLES.create_all(db, tables=[table for table in TABLES.sorted_tables if table != MIGRATIONS])


STEPS: Sequence[Callable[[sql.Connection], None]] = (_first,)
"""Each brings the data base from the version of its index to the next. Only ever added to: once
released, a step stays as it is, with its own table definitions where those above have moved on."""


def migrate(db: sql.Connection) -> None:
    """Bring the data base to this version's tables, in the caller's transaction. Raises
    ``UsageError`` for one that a newer Freehold has written."""
    MIGRATIONS.create(db, checkfirst=True)
    version = version_of(db)
    for number, step in enumerate(STEPS[version:], version + 1):
        step(db)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        db.execute(sql.insert(MIGRATIONS).values(number=number, applied=now))


def version_of(db: sql.Connection) -> int:
    """How many steps the data base has taken; 0 for one that holds no ledger."""
    if not sql.inspect(db).has_table(MIGRATIONS.name):
        return 0
    version: int = db.execute(sql.select(sql.func.max(MIGRATIONS.c.number))).scalar() or 0
    if version > len(STEPS):
        raise UsageError(
            f"the ledger's tables are of version {version} and this Freehold knows {len(STEPS)}: "
            "a newer Freehold wrote them; use that one"
        )
    return version
