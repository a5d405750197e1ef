"""Where API keys lie, and what a locked counter needs to reach them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from freehold.cli.home import stay_single
from freehold.cli.peers import data_base, passwords
from freehold.cli.places import root
from freehold.cli.recording import sqlite_files
from freehold.cli.settings import Settings, read_settings
from freehold.errors import UsageError

if TYPE_CHECKING:
    from freehold.residency.broker import Peer
    from freehold.serve.keys import Keyring


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The key data base, and what its user reads, writes and connects to."""

    url: str
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    peers: tuple[Peer, ...] = ()


def open_keyring(settings: Settings | None = None) -> Keyring:
    """The keys that the settings name, made on first use. Raises ``UsageError`` or
    ``StorageError``."""
    from freehold.serve.keys import Keyring

    return Keyring(_url((settings or read_settings(root())).keys))


def keys_of(settings: Settings) -> Keys:
    """The same for a counter about to be locked: files are there and of today's form, and a server
    is named by its address. Raises ``UsageError`` or ``StorageError``."""
    url = _url(settings.keys)
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        _prepare(path, url)
        return Keys(url=url, write=tuple(sqlite_files(path)))
    stay_single()
    from sqlalchemy.engine import make_url

    try:
        fixed, peer = data_base(make_url(url), "keys")
    except ValueError as error:  # SQLAlchemy's complaint may hold the password
        raise UsageError("keys is no data base URL", param="keys") from error
    return Keys(url=fixed, read=(passwords(),), peers=(peer,))


def _url(setting: str) -> str:
    if "://" in setting:
        return setting
    folder = root()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return f"sqlite:///{folder / setting}"


def _prepare(path: Path, url: str) -> None:
    """Have the file there and of today's form: a locked counter could not bring it there."""
    import sqlite3

    from freehold.serve.migrations import LATEST

    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        ) as db:
            ready = db.execute("SELECT version FROM freehold_schema").fetchone() == (LATEST,)
    except sqlite3.Error:
        ready = False
    if not ready:
        from freehold.serve.keys import Keyring

        Keyring(url).close()
