"""The ledger of a server: its keeper process, started as the owner's settings say."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from freehold.cli.home import existing, stay_single
from freehold.cli.output import say
from freehold.cli.peers import data_base, passwords, ports
from freehold.cli.places import keys_folder, root
from freehold.cli.settings import Settings

if TYPE_CHECKING:
    from freehold.cli.home import Home
    from freehold.ledger import LedgerProcess
    from freehold.pair import Started
    from freehold.residency.broker import Peer
    from freehold.residency.landlock import Reach

OFF = "off"
KEY = "ledger"
Opened: TypeAlias = "Callable[[], Awaitable[LedgerProcess | None]]"


@dataclass(frozen=True, kw_only=True)
class Keeper:
    """What a keeper is told, and what it may reach: files, and the addresses of its data base."""

    ledger: str
    content: str
    reader: str
    reach: Reach
    peers: tuple[Peer, ...]


def keeper_of(settings: Settings) -> Keeper | None:
    """The keeper that the settings ask for, and the files it writes, made if they are not there:
    locked, it can make none. ``None`` where the ledger is off. Raises ``UsageError``."""
    if settings.ledger == OFF:
        say("the ledger is off: requests are answered and not recorded")
        return None
    from freehold.residency.landlock import Reach
    from freehold.residency.lock import library

    folder = keys_folder()
    read, write = [*library()], list[str]()
    ledger, peers = settings.ledger, list["Peer"]()
    if (folder / f"{KEY}.key").exists():
        read += [str(folder / f"{KEY}{half}") for half in (".key", ".pub")]
    else:  # the first start: it makes its key
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write.append(str(folder))
    if settings.ledger_reader:
        read.append(str(folder / f"{settings.ledger_reader}.pub"))
    file = _file_of(ledger)
    if file is not None:
        write += sqlite_files(file, ".lock")
    else:
        ledger, peer = _server(ledger)
        peers.append(peer)
        read.append(passwords())
    return Keeper(
        ledger=ledger,
        content=settings.ledger_content,
        reader=settings.ledger_reader,
        reach=Reach(read=tuple(read), write=tuple(write), connect=ports(peers)),
        peers=tuple(peers),
    )


@contextmanager
def keeping(keeper: Keeper | None, home: Home) -> Iterator[Started | None]:
    """Start the keeper's process, locked as ``home`` orders; it waits for its settings. Called
    before ``home.shut_files``: what is started after that has no more files than the counter."""
    if keeper is None:
        yield None
        return
    from freehold.spawning import spawn

    role = "keeper-remote" if keeper.peers else "keeper"
    process, pair = spawn("freehold.ledger", home.order(role, keeper.reach, peers=keeper.peers))
    try:
        yield process, pair
    finally:
        pair.close()  # without its pair it ends
        with contextlib.suppress(PermissionError):
            if process.poll() is None:
                process.kill()
        process.wait()


@asynccontextmanager
async def recording(keeper: Keeper | None, started: Started | None) -> AsyncIterator[Opened]:
    """Have the keeper open the ledger that requests are recorded in, and close it at the end.

    What is yielded waits until it is open, so that a model can be loaded meanwhile; it gives
    ``None`` where the ledger is off, and raises ``UsageError``, ``IntegrityError`` or
    ``LedgerError``.
    """
    if keeper is None:
        yield _nothing
        return
    from freehold.ledger import KeeperSettings, LedgerProcess

    told = KeeperSettings(
        root=str(root()),
        keys=str(keys_folder()),
        ledger=keeper.ledger,
        content=cast('Literal["hash", "sealed", "clear"]', keeper.content),
        reader=keeper.reader,
    )
    starting = asyncio.create_task(LedgerProcess.start(told, started))
    await asyncio.sleep(0)  # it has its settings now, and opens its data base by itself

    async def opened() -> LedgerProcess:
        ledger = await starting
        for note in ledger.notes:
            say(note)
        return ledger

    try:
        yield opened
    finally:
        starting.cancel()
        (ledger,) = await asyncio.gather(starting, return_exceptions=True)
        if isinstance(ledger, LedgerProcess):
            await ledger.close()


def _file_of(ledger: str) -> Path | None:
    """The file a ledger lies in; ``None`` for one in a data base server."""
    kind, found, rest = ledger.partition("://")
    if not found:
        return root() / ledger
    return Path(rest.removeprefix("/").partition("?")[0]) if kind.startswith("sqlite") else None


def sqlite_files(file: Path, *beside: str) -> list[str]:
    """All files that SQLite writes for the data base in ``file``, and those ``beside`` it. Its
    folder may be the vault's own, so it stays shut: SQLite needs no other file once a data base
    keeps a log beside itself."""
    import sqlite3

    with contextlib.suppress(OSError, sqlite3.Error):  # the keeper says what is wrong
        made = not file.exists()
        paths = [existing(Path(f"{file}{suffix}")) for suffix in ("", *beside, "-wal", "-shm")]
        if made or file.stat().st_size == 0:
            with contextlib.closing(sqlite3.connect(file)) as db:
                db.execute("PRAGMA journal_mode=WAL")
            paths = [existing(Path(path)) for path in paths]
        return paths
    return []


def _server(ledger: str) -> tuple[str, Peer]:
    """A data base server's URL with its address in figures, and the address to connect to."""
    stay_single()
    from freehold.ledger.database import place

    return data_base(place(ledger, root()), "ledger")


async def _nothing() -> None:
    return None
