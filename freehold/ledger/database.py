"""The data base that a ledger lies in, made durable: SQLite, held by one writer, or PostgreSQL,
where the keepers of several counters take turns."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import sqlalchemy as sql
from sqlalchemy.engine import URL, make_url

from freehold.errors import FreeholdError, LedgerError, NotFoundError, UsageError

_LOCK_NUMBER = 0x66726565686F6C64  # "freehold", in PostgreSQL's 64-bit advisory lock numbers
"""Held shared by every keeper. Versions before this one held it alone, and stay out."""

_TURN_NUMBER = _LOCK_NUMBER + 1
"""Held by the keeper whose turn it is, for one transaction."""

_LOCK_SECONDS = 2.5
_TURN_SECONDS = 10
"""How long a keeper waits for its turn."""

_STALL_SECONDS = 5
"""PostgreSQL ends the turn of a keeper that has said nothing for so long (stopped, cut off)."""

_BUSY_SECONDS = 10
_WAL_PAGES = 4000
"""SQLite copies its log back into the file itself beyond so many pages; before, when idle."""


def place(ledger: str, root: Path) -> URL:
    """Where the setting ``ledger`` points: a file (relative to ``root``) or a data base URL.

    Raises ``UsageError``.
    """
    if "://" not in ledger:
        return URL.create("sqlite", database=str(root / ledger))
    try:
        url = make_url(ledger)
    except sql.exc.ArgumentError as error:
        raise UsageError("ledger is no data base URL", param="ledger") from error
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "postgresql+psycopg") or not url.database:
        raise UsageError(
            "ledger must be a file name, or postgresql://USER@HOST/DATABASE", param="ledger"
        )
    return url


class Database:
    """One connection, kept open. A ``writer`` of SQLite takes the lock that only one process can
    have; writers of PostgreSQL ask for their ``turn`` in each transaction.

    Failures of the data base come out as ``LedgerError``, and the connection is dropped: the next
    use makes a new one.
    """

    def __init__(self, url: URL, *, writer: bool) -> None:
        self._url = url
        self._writer = writer
        self._file = Path(url.database or "") if url.get_backend_name() == "sqlite" else None
        self._lock: int | None = None
        self._inode: tuple[int, int] | None = None
        self._connection: sql.Connection | None = None
        if self._file is not None and not writer and not self._file.exists():
            raise NotFoundError(
                f"there is no ledger at {self._file}: `freehold serve` makes one", param="ledger"
            )
        try:
            self._engine = self._make()
        except ImportError as error:
            raise UsageError(
                "a ledger in PostgreSQL needs its driver: pip install 'freehold[postgres]'",
                param="ledger",
            ) from error

    @property
    def where(self) -> str:
        """The place, without a password."""
        return str(self._file) if self._file else self._url.render_as_string(hide_password=True)

    @contextlib.contextmanager
    def transaction(self, *, write: bool = False) -> Iterator[sql.Connection]:
        """One transaction, durable when the block has ended. Raises ``LedgerError``."""
        try:
            db = self._connect()
            if self._file is not None:
                db.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
            yield db
            if self._file is not None:
                db.exec_driver_sql("COMMIT")
            db.commit()
        except (sql.exc.SQLAlchemyError, OSError) as error:
            self.drop()
            self._fail(error)
        except FreeholdError:
            # A refusal of our own: the connection is sound.
            self._roll_back()
            raise
        except BaseException:
            self.drop()
            raise

    def turn(self, db: sql.Connection) -> None:
        """Wait until no other keeper writes, until the end of the transaction that has just begun;
        what it then reads is what was committed before. Raises what SQLAlchemy raises."""
        if self._file is None:
            # By default a transaction sees the moment of its first statement: here, the one in
            # which it began to wait.
            db.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            db.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_TURN_NUMBER})")

    def rest(self) -> None:
        """Do what is better done while nobody waits. SQLite: copy its log back into the file."""
        if self._file is not None and self._connection is not None:
            with contextlib.suppress(sql.exc.SQLAlchemyError):
                self._connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").all()

    def shred(self) -> bool:
        """Leave nothing behind of what was deleted; whether that was possible now.

        SQLite has overwritten it in its file (``secure_delete``); its log is emptied here, unless
        somebody is reading. PostgreSQL is told to free the space, and overwrites it in time.
        """
        try:
            if self._file is not None:
                found = self._connect().exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
                return not found[0]
            with self._engine.connect() as another:
                free = another.execution_options(isolation_level="AUTOCOMMIT")
                free.exec_driver_sql("VACUUM leaves")
            return True
        except (sql.exc.SQLAlchemyError, OSError) as error:
            self.drop()
            self._fail(error)

    def _roll_back(self) -> None:
        if self._connection is None:
            return
        try:
            if self._file is not None and self._connection.connection.in_transaction:
                self._connection.exec_driver_sql("ROLLBACK")
            self._connection.rollback()
        except (sql.exc.SQLAlchemyError, OSError):
            self.drop()

    def drop(self) -> None:
        """Forget the connection, and what it had not committed."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.invalidate()
                self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Give the connection and the lock back."""
        if self._connection is not None and self._file is not None:
            self.rest()
        self.drop()
        self._engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- connecting -------------------------------------------------------------------------------

    def _make(self) -> sql.Engine:
        if self._file is not None:
            options: dict[str, Any] = {"timeout": _BUSY_SECONDS, "isolation_level": None}
            engine = sql.create_engine(self._url, connect_args=options, poolclass=sql.NullPool)
            sql.event.listen(engine, "connect", _make_durable)
            return engine
        told = "-c synchronous_commit=on -c statement_timeout=30000"
        if self._writer:
            told += f" -c lock_timeout={_TURN_SECONDS}s"
            told += f" -c idle_in_transaction_session_timeout={_STALL_SECONDS}s"
        return sql.create_engine(
            self._url,
            poolclass=sql.NullPool,
            # Whoever walks the log must see one moment of it, however long that takes.
            isolation_level="REPEATABLE READ",
            connect_args={
                "connect_timeout": 3,
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "options": told,
            },
        )

    def _connect(self) -> sql.Connection:
        if self._connection is not None:
            if not self._moved():
                return self._connection
            self.drop()
        if self._file is not None:
            self._own(self._file)
        made = self._engine.connect()
        if self._file is None and self._writer:
            try:
                self._lock_server(made)
            except BaseException:
                made.close()
                raise
        self._connection = made
        return made

    def _lock_server(self, db: sql.Connection) -> None:
        """PostgreSQL's lock, which ends with the session: against a keeper of an older version,
        which takes no turns."""
        lock = sql.text("SELECT pg_try_advisory_lock_shared(:number)")
        if not _patiently(lambda: bool(db.execute(lock, {"number": _LOCK_NUMBER}).scalar())):
            self._taken()
        db.commit()

    def _own(self, file: Path) -> None:
        """The lock, and a file that only its owner can read."""
        if self._writer:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._lock is None:
                self._lock = _flock(Path(f"{file}.lock"))
                if self._lock is None:
                    self._taken()
            if self._inode is None or file.exists():
                os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        found = file.stat()
        self._inode = (found.st_dev, found.st_ino)

    def _moved(self) -> bool:
        """Whether the file is another than the one that was opened: writes to it would be lost."""
        if self._file is None:
            return False
        try:
            found = self._file.stat()
        except OSError:
            return True
        return (found.st_dev, found.st_ino) != self._inode

    def _taken(self) -> NoReturn:
        if self._file is None:
            raise UsageError(
                f"an older Freehold writes the ledger at {self.where}, and takes no turns with "
                "others: stop that one",
                param="ledger",
            )
        raise UsageError(
            f"another process writes the ledger at {self.where}: one server to a file; stop that "
            "one, give this one a ledger of its own, or let both use PostgreSQL",
            param="ledger",
        )

    def _fail(self, error: Exception) -> NoReturn:
        """Say it without the statement, whose values may be a prompt's."""
        cause = getattr(error, "orig", None) or error
        what = type(cause).__name__
        if self._file is not None:
            what = (
                f"{Path(cause.filename).name}: {cause.strerror}"
                if isinstance(cause, OSError) and cause.filename
                else str(cause)
            )
        raise LedgerError(
            f"the ledger at {self.where} failed ({what}): no entry, so no reply; "
            "check that its disk or data base is there, writable and not full"
        ) from error


def _make_durable(connection: Any, _: object) -> None:
    """SQLite's own settings: a commit has reached the disk, and what is deleted is overwritten."""
    # Text that somebody broke is read all the same, and found to be changed.
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "secure_delete=ON",
        f"wal_autocheckpoint={_WAL_PAGES}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _flock(path: Path) -> int | None:
    """An exclusive lock on ``path``, held until the descriptor is closed; ``None`` if taken."""
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def locked() -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    if _patiently(locked):
        return descriptor
    os.close(descriptor)
    return None


def _patiently(locked: Callable[[], bool]) -> bool:
    """Try for a moment: the lock of a server that was killed ends a little after it."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while not locked():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
