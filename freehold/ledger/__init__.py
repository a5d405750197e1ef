"""The archive: what the server did, append-only, hash-chained, signed, verifiable by anyone."""
