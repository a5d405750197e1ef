"""The archive: append-only, hash-chained, signed, self-verifying; kept by a process of its own."""

from freehold.ledger.client import LedgerProcess
from freehold.ledger.wire import KeeperSettings

__all__ = ["KeeperSettings", "LedgerProcess"]
