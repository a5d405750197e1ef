"""Erase without a server: take the lock, do what was asked for, give it back."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL

from freehold.ledger.database import Database
from freehold.ledger.keeper import grant
from freehold.ledger.leaves import Writer
from freehold.ledger.log import Log
from freehold.signing import keys

LEDGER_KEY = "ledger"


def erase_now(url: URL, folder: Path) -> list[int]:
    """Do every erasure that was asked for; which entries they were.

    Raises ``UsageError`` while a server has the lock, ``NotFoundError`` without the ledger's key.
    """
    log = Log(Database(url, writer=True), keys.load(folder, LEDGER_KEY))
    try:
        return grant(log, Writer("hash"))
    finally:
        log.close()
