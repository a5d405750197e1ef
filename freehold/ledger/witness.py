"""A witness: remembers the last checkpoint it saw, and cosigns only what goes on from there."""

from __future__ import annotations

import os
import time
from pathlib import Path

from freehold.errors import StorageError
from freehold.ledger import merkle
from freehold.ledger.log import Reader
from freehold.signing import notes
from freehold.signing.keys import SigningKey


def cosign(log: Reader, state: Path, name: str, key: SigningKey) -> tuple[str, str]:
    """Cosign the latest checkpoint as ``name`` and remember it in ``state``; the cosigned note and
    the witness's verifier key. The first time it is believed, from then on it must be consistent.

    Raises ``IntegrityError`` for a log that was cut or rewritten, ``SignatureError`` for one that
    another key signed, ``StorageError``.
    """
    note = notes.parse(log.checkpoint())
    notes.check(note, log.verifier)
    seen = notes.checkpoint(note)
    try:
        before = state.read_bytes() if state.exists() else None
    except OSError as error:
        raise StorageError(f"{state} cannot be read: {error.strerror}") from error
    if before is not None:
        old_note = notes.parse(before, file=str(state))
        notes.check(old_note, log.verifier)
        old = notes.checkpoint(old_note)
        if old.size > seen.size:
            merkle.check_consistency(old.size, seen.size, old.root, seen.root, [])
        proof = log.consistency(old.size, seen.size)["proof"]
        hashes = [bytes.fromhex(one) for one in proof]
        merkle.check_consistency(old.size, seen.size, old.root, seen.root, hashes)
    line = notes.cosign(note.text, name, key, time=int(time.time()))
    done = str(notes.join(note, [line]))
    _keep(state, done)
    return done, str(notes.Verifier(name=name, key=key.public, kind=notes.COSIGNATURE))


def _keep(path: Path, text: str) -> None:
    making = path.with_name(f".{path.name}.new")
    try:
        with making.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        making.rename(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}: not cosigned") from error
