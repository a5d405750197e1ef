"""The data base that keys, their limits and what they used lie in: SQLite, or PostgreSQL where
several counters share it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import make_url

from freehold.errors import StorageError, UsageError

_BUSY_SECONDS = 10
POOL = 8
"""Connections to a server, for each use that is made of it."""

_LOCK_NUMBER = 0x6672656568000001
"""PostgreSQL's advisory lock for changes of keys, apart from the ledger's."""


def connect(url: str, *, durable: bool = True) -> sql.Engine:
    """The data base at ``url`` (``sqlite:////path/keys.db``).

    A SQLite file is made readable by its owner alone, and refused when others may open it. Without
    ``durable``, what was written last may be lost when the power fails, not when a process does.
    Raises ``UsageError`` or ``StorageError``.
    """
    try:
        location = make_url(url)
    except sql.exc.ArgumentError as error:
        raise UsageError(
            "the key database's address is no database URL: write sqlite:////path/keys.db"
        ) from error
    if location.get_backend_name() == "postgresql":
        with _told("opened"):
            return _server(location.set(drivername="postgresql+psycopg"), durable)
    if location.get_backend_name() != "sqlite":
        raise UsageError("the key database must be SQLite or PostgreSQL")
    _own_file(location.database)
    # No transactions of the driver's own making: ``exclusive`` begins them.
    options: dict[str, Any] = {"timeout": _BUSY_SECONDS, "isolation_level": None}
    engine = sql.create_engine(location, connect_args=options)

    def prepare(connection: Any, _: object) -> None:
        _write_ahead(connection)
        connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}").fetchall()

    sql.event.listen(engine, "connect", prepare)
    return engine


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Have SQLite keep a log beside the file.

    Two that turn a new file to it at once hold a lock each that the other waits for; SQLite tells
    one of them at once that the file is locked, without its timeout. That one tries again.
    """
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.005)


def _server(location: sql.engine.URL, durable: bool) -> sql.Engine:
    # What another counter holds is waited for, but not for one that stands still.
    options = {
        "synchronous_commit": "on" if durable else "off",
        "statement_timeout": "15s",
        "lock_timeout": "10s",
        "idle_in_transaction_session_timeout": "5s",
    }
    return sql.create_engine(
        location,
        pool_pre_ping=True,
        pool_size=POOL,
        max_overflow=0,
        pool_timeout=5,
        connect_args={
            "connect_timeout": 3,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
        },
    )


def alone(db: sql.Connection) -> None:
    """Keep all others from changing keys, or the form of their tables, until the transaction ends.
    In SQLite ``exclusive`` does."""
    if db.dialect.name == "postgresql":
        db.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK_NUMBER})")


@contextlib.contextmanager
def exclusive(engine: sql.Engine, done: str = "used") -> Iterator[sql.Connection]:
    """A transaction. With SQLite nobody else writes meanwhile; PostgreSQL locks rows. ``done`` is
    what keys could not be if it fails. Raises ``StorageError``."""
    with _told(done), engine.connect() as db:
        if engine.dialect.name == "sqlite":
            db.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            if engine.dialect.name == "sqlite":
                db.exec_driver_sql("ROLLBACK")
            db.rollback()
            raise
        if engine.dialect.name == "sqlite":
            db.exec_driver_sql("COMMIT")
        db.commit()


@contextlib.contextmanager
def reading(engine: sql.Engine, done: str) -> Iterator[sql.Connection]:
    """A connection to read by. Raises ``StorageError``."""
    alone = {"isolation_level": "AUTOCOMMIT"} if engine.dialect.name == "postgresql" else {}
    with _told(done), engine.connect() as db:
        # One statement needs no transaction around it; SQLite's driver begins none.
        yield db.execution_options(**alone)


@contextlib.contextmanager
def _told(done: str) -> Iterator[None]:
    """A data base's failure as our own; its message may hold the statement's values."""
    try:
        yield
    except ImportError as error:
        raise UsageError(
            "keys in PostgreSQL need its driver: pip install 'freehold[postgres]'"
        ) from error
    except sql.exc.SQLAlchemyError as error:
        cause = type(getattr(error, "orig", None) or error).__name__
        raise StorageError(
            f"keys could not be {done}: the key database failed ({cause}); check that its disk or "
            "server is there, writable and not full"
        ) from None


def _own_file(database: str | None) -> None:
    """Make the key file owner-only before SQLite does with whatever umask there is."""
    if database is None or database in {"", ":memory:"}:
        raise UsageError("keys need a file: write sqlite:////path/keys.db")
    path = Path(database)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            # Never opened otherwise: closing a file drops every lock that this process has on it,
            # SQLite's own among them.
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
